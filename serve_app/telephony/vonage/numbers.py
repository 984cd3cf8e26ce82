"""Phone numbers at Vonage's border: E.164 with `+` inside Parley, without it on Vonage's wire."""

from __future__ import annotations

import re

_E164 = re.compile(r"\+([1-9]\d{6,14})", re.ASCII)
_WIRE = re.compile(r"\+?([1-9]\d{6,14})", re.ASCII)


def to_wire(e164: str) -> str:
    """`+447700900000` -> `447700900000`. Raises ValueError (without the number: it may reach a log)."""
    match = _E164.fullmatch(e164)
    if match is None:
        raise ValueError("not an E.164 number with a leading +")
    return match.group(1)


def from_wire(text: str) -> str:
    """`447700900000` -> `+447700900000`; anything else (SIP URI, wss URI, `anonymous`) unchanged."""
    match = _WIRE.fullmatch(text)
    return text if match is None else f"+{match.group(1)}"
