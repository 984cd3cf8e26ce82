"""The playout: what is sent when, and what the callee has heard of it. Sans-I/O: `now` comes in, frames come out.

The network plays what it has, one frame per 20 ms, so `lead_ms` of audio is kept in its buffer: a timer that fires late
is not heard, and a barge-in loses little. The far buffer is modelled from what was sent; marks that come back prove it.
Network latency cancels out: a frame arrives as much later as the `clear` that cuts it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from serve_app.audio.framing import Framer
from serve_app.conversation.ledger import Spoken, SpokenText
from serve_app.providers.base import AudioFormat, Word
from serve_app.telephony.base import FRAME_MS

BURST_FRAMES = 6
"""A burst costs one wake-up and one write in every process on the way, so 120 ms of audio go at once: with a lead of
400 ms the far buffer holds 280 ms or more."""
MARK_GRACE_S = 1.0
"""How much later than modelled a mark may come back before the model gives way to it."""
_FRAME_S = FRAME_MS / 1000
# Floating-point sums of 0.02 must not delay a frame by a whole wake.
_EPSILON_S = 1e-6

NoticeKind = Literal["playing", "dry", "drained"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Ask the network to say when everything before was played."""

    id: str


@dataclass(frozen=True, slots=True)
class PlayedFrame:
    """A frame that the callee heard, and the monotonic time when it began to play."""

    frame: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Notice:
    """`playing`: sound (again). `dry`: nothing left to play and more must come. `drained`: played to its end."""

    kind: NoticeKind
    generation: int
    spoken: Spoken | None = None


@dataclass(slots=True)
class _Utterance:
    generation: int
    framer: Framer
    text: SpokenText = field(default_factory=SpokenText)
    unsent: deque[bytes] = field(default_factory=deque)
    complete: bool = False
    failed: bool = False
    framed: int = 0
    sent: int = 0
    played: int = 0
    first_index: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    dry: bool = False
    final_mark: str | None = None
    sentences_marked: int = 0

    @property
    def finished_sending(self) -> bool:
        return self.complete and not self.unsent


@dataclass(slots=True)
class _PendingMark:
    id: str
    after_index: int
    """Frames of the call that lie before the mark."""
    due_at: float


class Playout:
    """Utterances in, frames and marks out at the right time, and a `Spoken` for every utterance exactly once."""

    def __init__(self, audio: AudioFormat, *, lead_ms: int) -> None:
        self._frame_bytes = audio.bytes_for_ms(FRAME_MS)
        self._silence = 0xFF if audio.encoding == "mulaw" else 0
        self._lead_s = lead_ms / 1000
        self._queue: deque[_Utterance] = deque()
        self._in_flight: deque[tuple[_Utterance, PlayedFrame]] = deque()
        self._played: list[PlayedFrame] = []
        self._notices: list[Notice] = []
        self._marks: deque[_PendingMark] = deque()
        self._marks_added = 0
        self._marks_confirmed = 0
        self._sent_index = 0
        self._played_index = 0
        self._free_at = float("-inf")
        self._last_began_at = float("-inf")
        self.underruns = 0
        """Times when the far buffer ran empty inside an utterance."""

    # --- filling ---

    def begin(self, generation: int) -> None:
        """A new utterance, played after those before it."""
        self._queue.append(_Utterance(generation, Framer(self._frame_bytes, self._silence)))

    def push_text(self, generation: int, text: str) -> None:
        """Text that the synthesizer was given. Ignored for an utterance that is over."""
        if (utterance := self._find(generation)) is not None:
            utterance.text.append(text)

    def push_words(self, generation: int, words: tuple[Word, ...]) -> None:
        if (utterance := self._find(generation)) is not None:
            utterance.text.add_timings(words)

    def push_audio(self, generation: int, audio: bytes) -> bool:
        """Audio of any length. Late audio of an abandoned utterance is dropped here.

        True when `tick` may have something to do earlier than `next_wake` told: nothing was left to send before.
        """
        if (utterance := self._find(generation)) is None or utterance.complete:
            return False
        frames = utterance.framer.push(audio)
        starved = not utterance.unsent and bool(frames)
        utterance.unsent.extend(frames)
        utterance.framed += len(frames)
        return starved

    def finish(self, generation: int, *, failed: bool = False) -> None:
        """No more audio follows; the tail is padded to a whole frame. `failed`: the audio does not cover the text."""
        if (utterance := self._find(generation)) is None or utterance.complete:
            return
        if (tail := utterance.framer.flush()) is not None:
            utterance.unsent.append(tail)
            utterance.framed += 1
        utterance.complete, utterance.failed = True, failed

    def _find(self, generation: int) -> _Utterance | None:
        return next((u for u in self._queue if u.generation == generation), None)

    # --- time ---

    def tick(self, now: float) -> list[bytes | Mark]:
        """What to send now: at most BURST_FRAMES frames, so that the buffer holds the lead, and the marks due."""
        self._play_until(now)
        out: list[bytes | Mark] = []
        budget = BURST_FRAMES
        for utterance in self._queue:
            while budget and utterance.unsent and self._free_at - now < self._lead_s - _EPSILON_S:
                out.append(self._send(utterance, now))
                budget -= 1
                self._mark_sentences(utterance, now, out)
            if not utterance.finished_sending:
                break
            if utterance.final_mark is None and utterance.sent:
                utterance.final_mark = self._add_mark(utterance, now, out)
        self._settle(now)
        return out

    def _send(self, utterance: _Utterance, now: float) -> bytes:
        frame = utterance.unsent.popleft()
        if utterance.sent == 0:
            utterance.first_index = self._sent_index
            utterance.started_at = max(now, self._free_at)
        elif self._free_at < now - _EPSILON_S:
            self.underruns += 1
        if utterance.sent == 0 or utterance.dry:
            utterance.dry = False
            self._notices.append(Notice("playing", utterance.generation))
        # Never at the very moment at which a cut frame began: no two frames play at once.
        at = max(now, self._free_at, self._last_began_at + _EPSILON_S)
        self._free_at = at + _FRAME_S
        utterance.sent += 1
        self._sent_index += 1
        self._in_flight.append((utterance, PlayedFrame(frame, at)))
        return frame

    def _mark_sentences(self, utterance: _Utterance, now: float, out: list[bytes | Mark]) -> None:
        ends = utterance.text.sentence_ends
        sent_s = utterance.sent * _FRAME_S
        while utterance.sentences_marked < len(ends):
            end_s = utterance.text.audio_end_s(ends[utterance.sentences_marked])
            last = utterance.finished_sending
            if last or end_s is None or end_s > sent_s:
                return
            utterance.sentences_marked += 1
            self._add_mark(utterance, now, out)

    def _add_mark(self, utterance: _Utterance, now: float, out: list[bytes | Mark]) -> str:
        self._marks_added += 1
        mark = Mark(f"{utterance.generation}-{self._marks_added}")
        self._marks.append(_PendingMark(mark.id, self._sent_index, max(self._free_at, now)))
        out.append(mark)
        return mark.id

    def _play_until(self, now: float) -> None:
        while self._in_flight and self._in_flight[0][1].at <= now + _EPSILON_S:
            self._play_next()

    def _play_next(self) -> None:
        utterance, frame = self._in_flight.popleft()
        utterance.played += 1
        utterance.ended_at = frame.at + _FRAME_S
        self._played_index += 1
        self._last_began_at = frame.at
        self._played.append(frame)

    def _settle(self, now: float) -> None:
        while self._queue:
            utterance = self._queue[0]
            still_playing = self._in_flight or now < self._free_at - _EPSILON_S
            if utterance.unsent or (still_playing and utterance.played < utterance.sent):
                return
            if not utterance.complete:
                if utterance.sent and not utterance.dry and not still_playing:
                    utterance.dry = True
                    self._notices.append(Notice("dry", utterance.generation))
                return
            if still_playing and len(self._queue) == 1:
                return
            if self._awaits_confirmation(utterance, now):
                return
            self._queue.popleft()
            self._notices.append(Notice("drained", utterance.generation, self._spoken(utterance, now, cut=False)))

    def _awaits_confirmation(self, utterance: _Utterance, now: float) -> bool:
        # Where marks never come back (a carrier without them), the model is all there is.
        if not self._marks_confirmed:
            return False
        return any(m.id == utterance.final_mark and now < m.due_at + MARK_GRACE_S for m in self._marks)

    def next_wake(self, now: float) -> float | None:
        """Seconds until `tick` has something to do; None while there is nothing to wait for."""
        if not self._queue:
            return None
        times = []
        if any(u.unsent for u in self._queue):
            # One wake per full burst once the lead is reached.
            times.append(max(self._free_at - self._lead_s + BURST_FRAMES * _FRAME_S, now + _FRAME_S))
        if self._free_at > now:
            times.append(self._free_at)
        elif (head := self._queue[0]).final_mark is not None:
            times += [m.due_at + MARK_GRACE_S for m in self._marks if m.id == head.final_mark]
        return max(min(times) - now, _FRAME_S / 4) if times else None

    # --- what the far end tells ---

    def confirm(self, mark: str, now: float) -> None:
        """A mark came back: it and those before it are proven. Unknown ids (cleared, or forged) change nothing.

        A mark that is early changes no time: the far end cannot play faster than frames last.
        """
        if not any(pending.id == mark for pending in self._marks):
            return
        self._marks_confirmed += 1
        while self._marks and self._marks.popleft().id != mark:
            pass
        self._play_until(now)
        self._settle(now)

    def interrupt(self, now: float) -> list[Spoken]:
        """Stop: unsent frames and what the far buffer still holds are dropped. The caller sends `clear`."""
        self._play_until(now)
        overdue = self._overdue_frames(now)
        spoken = [self._spoken(utterance, now, cut=True, overdue=overdue) for utterance in self._queue]
        self._queue.clear()
        self._in_flight.clear()
        self._marks.clear()
        self._notices = [notice for notice in self._notices if notice.kind == "drained"]
        self._sent_index = self._played_index
        self._free_at = now
        return spoken

    def _overdue_frames(self, now: float) -> int | None:
        """The frame index that the far end has not passed, when a mark is missing for longer than the grace."""
        if not self._marks_confirmed:
            return None
        late = [m.after_index for m in self._marks if now > m.due_at + MARK_GRACE_S]
        return min(late) if late else None

    def _spoken(self, utterance: _Utterance, now: float, *, cut: bool, overdue: int | None = None) -> Spoken:
        played = utterance.played
        if overdue is not None and utterance.sent:
            played = max(0, min(played, overdue - utterance.first_index))
        heard_s = played * _FRAME_S
        if cut and played == utterance.played and utterance.ended_at is not None and utterance.ended_at > now:
            # The frame that plays now has not been heard to its end.
            heard_s = max(0.0, heard_s - (utterance.ended_at - now))
        text = utterance.text.text
        heard = utterance.text.heard_chars(
            heard_s, utterance.framed * _FRAME_S, complete=utterance.complete and not utterance.failed
        )
        if not text[heard:].strip():
            heard = len(text)
        return Spoken(
            generation=utterance.generation,
            text=text,
            heard_text=text[:heard],
            interrupted=heard < len(text),
            started_at=utterance.started_at if utterance.played else None,
            ended_at=min(utterance.ended_at, now) if utterance.ended_at is not None else None,
            played_ms=played * FRAME_MS,
        )

    # --- results ---

    def take_played(self) -> list[PlayedFrame]:
        """Frames that began to play since the last call, in order. Cleared frames never appear."""
        played, self._played = self._played, []
        return played

    def take_notices(self) -> list[Notice]:
        notices, self._notices = self._notices, []
        return notices

    @property
    def idle(self) -> bool:
        """Nothing is playing, queued or expected."""
        return not self._queue

    def may_sound(self, now: float) -> bool:
        """The callee may hear something: by the model, or because a mark that would disprove it is not back.

        Frames that were held up on their way are still in the far buffer when the model takes them for played.
        """
        return self.ahead_s(now) > 0 or bool(self._marks_confirmed and self._marks)

    def ahead_s(self, now: float) -> float:
        """Seconds of audio in the far buffer, by the model."""
        return max(0.0, self._free_at - now)
