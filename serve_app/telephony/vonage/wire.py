"""Vonage's WebSocket protocol for one call, sans-I/O: messages in, events out; wishes in, messages out.

Vonage is the WebSocket client. Its first frame is text (`websocket:connected`); then binary frames both ways, mono
signed 16-bit little-endian PCM, exactly 20 ms each (Vonage voice guide, "WebSockets"). Anything unexpected becomes a
`LegFault`: the far side can never raise an exception here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from serve_app.providers.base import AudioFormat
from serve_app.telephony.base import (
    FRAME_MS,
    AudioReceived,
    DtmfReceived,
    LegConnected,
    LegEvent,
    LegFault,
    PlaybackCleared,
    PlaybackConfirmed,
    WireMessage,
)

SAMPLE_RATES_HZ: Final = (8000, 16000, 24000)
FAR_BUFFER_FRAMES: Final = 3072
"""About 60 s (Vonage voice guide); what happens beyond is not documented."""

MAX_TEXT_CHARS: Final = 16_384
"""Longest text frame that is parsed: control messages are a few hundred characters."""

_CONTENT_TYPE = re.compile(r"audio/l16\s*;\s*rate=(\d{4,6})", re.IGNORECASE | re.ASCII)
_DTMF_DIGIT = re.compile(r"[0-9A-Da-d*#]", re.ASCII)
_CLEAR = '{"action":"clear"}'
_NOT_HEADERS = frozenset({"event", "content-type"})


class VonageLeg:
    """Implements `telephony.base.Leg`.

    The rate given is the one that our NCCO asked for; the connected frame has the last word.
    """

    def __init__(self, sample_rate_hz: int = 16000) -> None:
        if sample_rate_hz not in SAMPLE_RATES_HZ:
            raise ValueError(f"Vonage carries {SAMPLE_RATES_HZ} Hz, not {sample_rate_hz}")
        self._set_rate(sample_rate_hz)
        self._connected = False

    @property
    def audio(self) -> AudioFormat:
        return self._audio

    @property
    def frame_bytes(self) -> int:
        return self._frame_bytes

    @property
    def far_buffer_frames(self) -> int:
        return FAR_BUFFER_FRAMES

    def receive(self, message: WireMessage) -> list[LegEvent]:
        """Events of one WebSocket message. Never raises; audio of a wrong size is not used."""
        if isinstance(message, str):
            return [self._text(message)]
        if not self._connected:
            return [LegFault("audio before the connected frame")]
        if len(message) != self._frame_bytes:
            return [LegFault(f"audio frame is not {self._frame_bytes} bytes")]
        return [AudioReceived(message)]

    def play(self, frame: bytes) -> WireMessage:
        """The frame itself. Raises ValueError unless it is exactly 20 ms: Vonage stops listening on any other size."""
        if len(frame) != self._frame_bytes:
            raise ValueError(f"a frame is {self._frame_bytes} bytes, not {len(frame)}")
        return frame

    def mark(self, mark: str) -> WireMessage:
        """A `notify` that comes back as `PlaybackConfirmed(mark)`. After a clear it may be late, or never come."""
        return json.dumps({"action": "notify", "payload": {"mark": mark}}, separators=(",", ":"))

    def clear(self) -> WireMessage:
        """Drop what Vonage has queued. Its `websocket:cleared` says that it happened, not how much was heard."""
        return _CLEAR

    def _set_rate(self, sample_rate_hz: int) -> None:
        self._audio = AudioFormat("linear16", sample_rate_hz)
        self._frame_bytes = self._audio.bytes_for_ms(FRAME_MS)

    def _text(self, text: str) -> LegEvent:
        if len(text) > MAX_TEXT_CHARS:
            return LegFault("text frame is too long")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):  # ValueError: also numbers with too many digits
            return LegFault("text frame is not JSON")
        if not isinstance(document, dict):
            return LegFault("text frame is not a JSON object")
        event = document.get("event")
        if event == "websocket:connected":
            return self._connect(document)
        if not self._connected:
            return LegFault("text before the connected frame")
        read = _READERS.get(event) if isinstance(event, str) else None
        if read is not None:
            return read(document)
        if isinstance(document.get("dtmf"), dict):
            # An older shape, seen from other Vonage products: {"dtmf": {"digit": "5", "duration": 260}}.
            return _dtmf(document["dtmf"])
        return LegFault(f"unknown event {event[:60]!r}" if isinstance(event, str) else "text frame without an event")

    def _connect(self, document: dict[str, Any]) -> LegEvent:
        if self._connected:
            return LegFault("connected twice")
        content_type = document.get("content-type")
        match = _CONTENT_TYPE.fullmatch(content_type.strip()) if isinstance(content_type, str) else None
        if match is None or int(match.group(1)) not in SAMPLE_RATES_HZ:
            return LegFault("connected frame with an unknown content-type")
        self._set_rate(int(match.group(1)))
        self._connected = True
        headers = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in document.items()
            if key not in _NOT_HEADERS
        }
        return LegConnected(self._audio, headers)


def _dtmf(document: dict[str, Any]) -> LegEvent:
    digit, duration = document.get("digit"), document.get("duration")
    if isinstance(digit, int) and not isinstance(digit, bool):
        digit = str(digit) if 0 <= digit <= 9 else None
    if not isinstance(digit, str) or not _DTMF_DIGIT.fullmatch(digit):
        return LegFault("dtmf without a digit")
    known = isinstance(duration, int) and not isinstance(duration, bool) and 0 <= duration <= 60_000
    return DtmfReceived(digit.upper(), duration if known else None)


def _notify(document: dict[str, Any]) -> LegEvent:
    payload = document.get("payload")
    mark = payload.get("mark") if isinstance(payload, dict) else None
    return PlaybackConfirmed(mark) if isinstance(mark, str) else LegFault("notify without a mark of ours")


def _cleared(_: dict[str, Any]) -> LegEvent:
    return PlaybackCleared()


_READERS: Final[dict[str, Callable[[dict[str, Any]], LegEvent]]] = {
    "websocket:dtmf": _dtmf,
    "websocket:notify": _notify,
    "websocket:cleared": _cleared,
}
