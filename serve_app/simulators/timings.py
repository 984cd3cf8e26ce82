"""What the stand-ins injected and when: a benchmark subtracts exactly that. `GET /sim/timings` takes the notes.

All times are CLOCK_MONOTONIC seconds (`time.monotonic()`), taken when the bytes were handed to the socket.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

from serve_app.simulators.ticker import Lateness

_MAX_STREAMS = 20_000
_MAX_NOTES = 50_000


@dataclass(slots=True)
class TurnNote:
    """One turn of a transcription stream.

    `*_audio_at`: when the audio that caused the message arrived; `*_at`: when the message was sent.
    """

    turn_index: int
    text: str = ""
    start_of_turn_audio_at: float | None = None
    start_of_turn_at: float | None = None
    end_of_turn_audio_at: float | None = None
    end_of_turn_at: float | None = None


@dataclass(slots=True)
class StreamNotes:
    """One transcription stream. `number`: in the order of connection, from 0."""

    tag: str
    number: int
    turns: list[TurnNote] = field(default_factory=list)
    closed: bool = False

    def turn(self, turn_index: int) -> TurnNote:
        """The note of this turn, made where there is none."""
        for note in reversed(self.turns):
            if note.turn_index == turn_index:
                return note
        self.turns.append(TurnNote(turn_index))
        return self.turns[-1]


@dataclass(slots=True)
class ReplyNote:
    """One streamed completion, noted at its first token. `asked`: the last user text. `injected_ms`: the drawn wait."""

    asked: str
    request_at: float
    injected_ms: float = 0.0
    first_token_at: float | None = None


@dataclass(slots=True)
class SpeechNote:
    """One input of one synthesis context, noted at its first audio. `injected_ms`: the drawn wait."""

    context_id: str
    text: str
    text_at: float
    injected_ms: float = 0.0
    first_audio_at: float | None = None


class Timings:
    """The notes of all stand-ins since they were last taken. Bounded: the oldest go first."""

    def __init__(self) -> None:
        self._streams: OrderedDict[int, StreamNotes] = OrderedDict()
        self._numbers = 0
        self.replies: deque[ReplyNote] = deque(maxlen=_MAX_NOTES)
        self.speeches: deque[SpeechNote] = deque(maxlen=_MAX_NOTES)
        self.lateness = Lateness()
        """How long after it was due each message left: the stand-ins' own delay."""

    def stream(self, tag: str) -> StreamNotes:
        """Notes of a stream that begins now."""
        notes = StreamNotes(tag, self._numbers)
        self._numbers += 1
        self._streams[notes.number] = notes
        while len(self._streams) > _MAX_STREAMS:
            self._streams.popitem(last=False)
        return notes

    def take(self) -> dict[str, Any]:
        """Everything so far, and begin anew. A turn without its end stays for the next time."""
        streams = []
        for notes in list(self._streams.values()):
            over = [turn for turn in notes.turns if turn.end_of_turn_at is not None]
            if over:
                streams.append({"tag": notes.tag, "number": notes.number, "turns": [asdict(turn) for turn in over]})
                notes.turns = [turn for turn in notes.turns if turn.end_of_turn_at is None]
            if notes.closed:
                del self._streams[notes.number]
        taken = {
            "streams": streams,
            "llm": [asdict(note) for note in self.replies],
            "tts": [asdict(note) for note in self.speeches],
            "lateness_p99_ms": round(self.lateness.quantile_ms(0.99), 3),
            "lateness_max_ms": round(self.lateness.max_ms, 3),
            "messages": self.lateness.count,
            "cpu_s": time.process_time(),
        }
        self.replies.clear()
        self.speeches.clear()
        self.lateness = Lateness()
        return taken


TIMINGS: web.AppKey[Timings] = web.AppKey("timings", Timings)


async def get_timings(request: web.Request) -> web.Response:
    """`GET /sim/timings`: the notes since the last request for them."""
    return web.json_response(request.app[TIMINGS].take())
