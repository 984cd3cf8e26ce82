"""The two NCCOs (call control documents) that Parley answers with. Plain JSON: the SDK's models drop fields of it.

A websocket `connect` is always the last action: Vonage runs what follows it as soon as the socket is up, not when it
ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from serve_app.telephony.vonage.wire import SAMPLE_RATES_HZ

Ncco = list[dict[str, object]]

MAX_HEADERS_BYTES = 512
"""Limit of a websocket endpoint's `headers` (Vonage NCCO reference)."""
MAX_TALK_CHARS = 1500


def connect_websocket(
    uri: str, *, rate: int, headers: Mapping[str, str], token: str | None, event_url: str | None
) -> Ncco:
    """Connect the call to our media socket.

    `headers` come back as top-level keys of the first text frame. `token`: sent by Vonage as the handshake's
    `Authorization: Bearer <token>`; None where the URI's path carries it. `event_url` gets the events of the socket's
    leg, failures included. Raises ValueError for a rate that Vonage does not carry and for headers over 512 bytes.
    """
    if rate not in SAMPLE_RATES_HZ:
        raise ValueError(f"Vonage carries {SAMPLE_RATES_HZ} Hz, not {rate}")
    size = len(json.dumps(dict(headers), ensure_ascii=False).encode())
    if size > MAX_HEADERS_BYTES:
        raise ValueError(f"websocket headers take {size} bytes; Vonage allows {MAX_HEADERS_BYTES}")
    endpoint: dict[str, object] = {
        "type": "websocket",
        "uri": uri,
        "content-type": f"audio/l16;rate={rate}",
        "headers": dict(headers),
    }
    if token is not None:
        endpoint["authorization"] = {"type": "custom", "value": f"Bearer {token}"}
    action: dict[str, object] = {"action": "connect", "endpoint": [endpoint]}
    if event_url is not None:
        # Without "synchronous" Vonage does not report a socket that failed to connect or was closed.
        action |= {"eventType": "synchronous", "eventUrl": [event_url]}
    return [action]


def talk(text: str, *, language: str = "en-US") -> Ncco:
    """Say `text` with Vonage's own voice; then the call ends, as no action follows. Raises ValueError if too long."""
    if not 0 < len(text) <= MAX_TALK_CHARS:
        raise ValueError(f"a talk action takes 1 to {MAX_TALK_CHARS} characters, not {len(text)}")
    return [{"action": "talk", "text": text, "language": language}]
