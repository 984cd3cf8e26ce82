"""What the conversation knows of a phone network: a sans-I/O leg, a port for its messages, and call control.

A leg turns the carrier's WebSocket messages into events and the conversation's wishes into messages. It imports
neither asyncio nor a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serve_app.providers.base import AudioFormat

WireMessage = bytes | str
"""A WebSocket message: binary or text."""

FRAME_MS = 20


@dataclass(frozen=True, slots=True)
class LegConnected:
    """The first text frame: the format of the audio, and the headers that our NCCO put there."""

    audio: AudioFormat
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class AudioReceived:
    audio: bytes


@dataclass(frozen=True, slots=True)
class DtmfReceived:
    digit: str
    duration_ms: int | None


@dataclass(frozen=True, slots=True)
class PlaybackConfirmed:
    """Everything queued before the mark was played to the callee."""

    mark: str


@dataclass(frozen=True, slots=True)
class PlaybackCleared:
    """The network dropped its queue. It does not say how much was heard (protocols 1.5)."""


@dataclass(frozen=True, slots=True)
class LegFault:
    """A message that the carrier should not have sent. Logged once per kind; never ends the call by itself."""

    reason: str


LegEvent = LegConnected | AudioReceived | DtmfReceived | PlaybackConfirmed | PlaybackCleared | LegFault


class Leg(Protocol):
    """One carrier's media protocol for one call."""

    @property
    def audio(self) -> AudioFormat: ...

    @property
    def frame_bytes(self) -> int:
        """The exact size of one 20 ms frame."""
        ...

    @property
    def far_buffer_frames(self) -> int:
        """How many frames the network buffers for us before it drops."""
        ...

    def receive(self, message: WireMessage) -> list[LegEvent]: ...

    def play(self, frame: bytes) -> WireMessage:
        """One 20 ms frame. Raises ValueError for any other size: the network hangs up on those."""
        ...

    def mark(self, mark: str) -> WireMessage | None:
        """Ask to be told when everything queued so far was played; None where the carrier cannot."""
        ...

    def clear(self) -> WireMessage | None:
        """Drop what the network still has queued; None where the carrier cannot."""
        ...


class MediaSink(Protocol):
    """The conversation's side of a media socket; called on the event loop, must return at once."""

    def media_received(self, message: WireMessage) -> None: ...

    def media_closed(self, reason: str) -> None:
        """The caller's socket closed, or the way to it was lost. Called once."""
        ...


class MediaPort(Protocol):
    """The way back to the caller's socket."""

    def send(self, *messages: WireMessage) -> None:
        """Hand over messages, in order, in one write. Never blocks; the queue below is bounded (drops are counted)."""
        ...

    def close(self, reason: str) -> None:
        """Close the caller's socket. Idempotent."""
        ...


class CallControl(Protocol):
    """REST control of a call on its network."""

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        """End the call. A call that is already over is not an error. Raises ProviderError(stage='telephony')."""
        ...
