"""The streams of a live call: their keys, and one shape for what Redis replies."""

from __future__ import annotations

from typing import Any


def inbox_key(call_id: str) -> str:
    return f"call:{call_id}:in"


def events_key(call_id: str) -> str:
    return f"call:{call_id}:out"


def entries(found: Any) -> dict[str, list[tuple[str, dict[str, str]]]]:
    """XREAD's reply as stream -> entries, in the shape of either protocol version (list in RESP2, map in RESP3)."""
    if not found:
        return {}
    streams = found.items() if isinstance(found, dict) else found
    result: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for key, items in streams:
        # RESP3 wraps the entries of a stream in one more list.
        result[key] = items[0] if items and isinstance(items[0], list) else items
    return result
