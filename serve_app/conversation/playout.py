"""The playout: what is sent when, and what the callee has heard of it. Sans-I/O: `now` comes in, frames come out.

The network plays what it has, one frame per 20 ms, so `lead_ms` of audio is kept in its buffer: a timer that fires late
is not heard, and a barge-in loses little. The far buffer is modelled from what was sent; marks that come back prove it.
Network latency cancels out: a frame arrives as much later as the `clear` that cuts it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from serve_app.audio.framing import Framer
from serve_app.conversation.far_marks import FarMarks, Mark
from serve_app.conversation.ledger import TYPICAL_CHARS_PER_S, Spoken
from serve_app.conversation.playout_utterance import FRAME_S, Utterance
from serve_app.conversation.speakable import Speakable
from serve_app.providers.base import AudioFormat, Word
from serve_app.telephony.base import FRAME_MS

BURST_FRAMES = 6
"""A burst costs one wake-up and one write in every process on the way, so 120 ms of audio go at once: with a lead of
400 ms the far buffer holds 280 ms or more."""
# Floating-point sums of 0.02 must not delay a frame by a whole wake.
_EPSILON_S = 1e-6
_RATE_FROM_S = 1.0
"""Seconds of audio from which an utterance tells how fast the voice speaks."""

NoticeKind = Literal["playing", "confirmed", "dry", "drained"]


@dataclass(frozen=True, slots=True)
class PlayedFrame:
    """A frame that the callee heard, and the monotonic time when it began to play."""

    frame: bytes
    at: float


@dataclass(frozen=True, slots=True)
class Notice:
    """`playing`: sound (again). `confirmed`: the far end has played its beginning. `dry`: nothing left to play and more
    must come. `drained`: played to its end.
    """

    kind: NoticeKind
    generation: int
    spoken: Spoken | None = None


class Playout:
    """Utterances in, frames and marks out at the right time, and a `Spoken` for every utterance exactly once."""

    def __init__(self, audio: AudioFormat, *, lead_ms: int) -> None:
        self._frame_bytes = audio.bytes_for_ms(FRAME_MS)
        self._silence = 0xFF if audio.encoding == "mulaw" else 0
        self._lead_s = lead_ms / 1000
        self._queue: deque[Utterance] = deque()
        self._in_flight: deque[tuple[Utterance, PlayedFrame]] = deque()
        self._played: list[PlayedFrame] = []
        self._notices: list[Notice] = []
        self._marks = FarMarks()
        self._sent_index = 0
        self._played_index = 0
        self._free_at = float("-inf")
        self._last_began_at = float("-inf")
        self._held = False
        self._chars_per_s = TYPICAL_CHARS_PER_S
        self.underruns = 0
        """Times when the far buffer ran empty inside an utterance."""

    # --- filling ---

    def begin(self, generation: int, *, before: int | None = None) -> bool:
        """A new utterance, played after those before it; or right ahead of `before`, or of what is still to come of it.

        False, and nothing is queued, when there is sound of `before` to play, or it is over.
        """
        utterance = Utterance(generation, Framer(self._frame_bytes, self._silence))
        if before is None:
            self._queue.append(utterance)
            return True
        following = self._find(before)
        if following is None:
            return False
        if following.started_at is not None:
            if not following.dry or self._held:
                return False
            following.resumed = True
            self.underruns += 1
        self._queue.insert(self._queue.index(following), utterance)
        return True

    def push_text(self, generation: int, piece: Speakable) -> None:
        """Text that the synthesizer was given. Ignored for an utterance that is over."""
        if (utterance := self._find(generation)) is not None:
            utterance.text.append(piece)

    def push_words(self, generation: int, words: tuple[Word, ...]) -> None:
        if (utterance := self._find(generation)) is not None:
            utterance.text.add_timings(words)

    def push_audio(self, generation: int, audio: bytes) -> bool:
        """Audio of any length. Late audio of an abandoned utterance is dropped here.

        True when `tick` may have something to do earlier than `next_wake` told: nothing was left to send before.
        """
        if (utterance := self._find(generation)) is None or utterance.complete:
            return False
        return utterance.push(audio) and not self._held

    def finish(self, generation: int, *, failed: bool = False) -> None:
        """No more audio follows; the tail is padded to a whole frame. `failed`: the audio does not cover the text."""
        if (utterance := self._find(generation)) is not None and not utterance.complete:
            utterance.finish(failed=failed)

    def audio_s(self, generation: int) -> float:
        """Seconds of audio received; 0 for an utterance that is over."""
        return utterance.audio_s if (utterance := self._find(generation)) is not None else 0.0

    def speech_end_s(self, generation: int) -> float | None:
        """Where in the audio the last word of the text ends; None while that is not told."""
        if (utterance := self._find(generation)) is None or not utterance.text.pieces:
            return None
        return utterance.text.piece_end_s(utterance.text.pieces - 1)

    def unspoken_text(self, generation: int) -> str:
        """The text, as written, whose audio has not come yet; empty for an utterance that is over."""
        if (utterance := self._find(generation)) is None:
            return ""
        return utterance.text.text[utterance.heard_chars(utterance.audio_s, self._chars_per_s) :]

    def take_unspoken(self, generation: int) -> str:
        """`unspoken_text`, for another voice: what the first one told of its timing is void."""
        rest = self.unspoken_text(generation)
        if (utterance := self._find(generation)) is not None:
            utterance.text.forget_timings_after(utterance.audio_s)
        return rest

    def _find(self, generation: int) -> Utterance | None:
        return next((u for u in self._queue if u.generation == generation), None)

    # --- time ---

    def tick(self, now: float) -> list[bytes | Mark]:
        """What to send now: at most BURST_FRAMES frames, so that the buffer holds the lead, and the marks due."""
        self._play_until(now)
        if self._held:
            return []
        out: list[bytes | Mark] = []
        budget = BURST_FRAMES
        for utterance in self._queue:
            while budget and utterance.unsent and self._free_at - now < self._lead_s - _EPSILON_S:
                out.append(self._send(utterance, now))
                budget -= 1
                if utterance.first_mark is None and not utterance.confirmed:
                    utterance.first_mark = self._add_mark(utterance, now, out)
                while utterance.pieces_marked < utterance.text.pieces and not utterance.finished_sending:
                    if not utterance.has_sent_piece(utterance.pieces_marked):
                        break
                    utterance.pieces_marked += 1
                    self._add_mark(utterance, now, out)
            if not utterance.finished_sending:
                break
            if utterance.final_mark is None and utterance.sent:
                utterance.final_mark = self._add_mark(utterance, now, out)
        self._settle(now)
        return out

    def _send(self, utterance: Utterance, now: float) -> bytes:
        frame = utterance.unsent.popleft()
        if utterance.started_at is None:
            utterance.started_at = max(now, self._free_at)
            utterance.first_index = self._sent_index
        elif utterance.resumed:
            utterance.first_index = self._sent_index - utterance.sent
        elif self._free_at < now - _EPSILON_S:
            self.underruns += 1
        if utterance.quiet:
            self._notices.append(Notice("playing", utterance.generation))
        utterance.quiet = utterance.resumed = False
        # Never at the very moment at which a cut frame began: no two frames play at once.
        at = max(now, self._free_at, self._last_began_at + _EPSILON_S)
        self._free_at = at + FRAME_S
        utterance.sent += 1
        utterance.kept.append(frame)
        self._sent_index += 1
        self._in_flight.append((utterance, PlayedFrame(frame, at)))
        return frame

    def _add_mark(self, utterance: Utterance, now: float, out: list[bytes | Mark]) -> str:
        mark = self._marks.add(utterance.generation, self._sent_index, max(self._free_at, now))
        out.append(mark)
        return mark.id

    def _play_until(self, now: float) -> None:
        while self._in_flight and self._in_flight[0][1].at <= now + _EPSILON_S:
            utterance, frame = self._in_flight.popleft()
            utterance.played += 1
            utterance.ended_at = frame.at + FRAME_S
            self._played_index += 1
            self._last_began_at = frame.at
            self._played.append(frame)

    def _settle(self, now: float) -> None:
        while self._queue and not self._held:
            utterance = self._queue[0]
            still_playing = self._in_flight or now < self._free_at - _EPSILON_S
            if utterance.unsent or (still_playing and utterance.played < utterance.sent):
                return
            if not utterance.complete:
                if not utterance.quiet and not still_playing:
                    utterance.quiet = True
                    self._notices.append(Notice("dry", utterance.generation))
                return
            if still_playing and len(self._queue) == 1:
                return
            awaited_until = self._marks.awaited_until(utterance.final_mark)
            if awaited_until is not None and now < awaited_until:
                return
            self._queue.popleft()
            spoken = utterance.spoken(now, utterance.heard_s(now, cut=False, overdue=None), self._chars_per_s)
            self._notices.append(Notice("drained", utterance.generation, spoken))
            if utterance.audio_s >= _RATE_FROM_S and not utterance.failed and utterance.text.spoken:
                self._chars_per_s = len(utterance.text.spoken) / utterance.audio_s

    def next_wake(self, now: float) -> float | None:
        """Seconds until `tick` has something to do; None while there is nothing to wait for."""
        if not self._queue or self._held:
            return None
        times = []
        if any(u.unsent for u in self._queue):
            # One wake per full burst once the lead is reached.
            times.append(max(self._free_at - self._lead_s + BURST_FRAMES * FRAME_S, now + FRAME_S))
        if self._free_at > now:
            times.append(self._free_at)
        elif (awaited_until := self._marks.awaited_until(self._queue[0].final_mark)) is not None:
            times.append(awaited_until)
        return max(min(times) - now, FRAME_S / 4) if times else None

    # --- what the far end tells ---

    def confirm(self, mark: str, now: float) -> None:
        """A mark came back: it and those before it are proven. Unknown ids (cleared, or forged) change nothing.

        A mark that is early changes no time: the far end cannot play faster than frames last.
        """
        if (proven_index := self._marks.confirm(mark)) is None:
            return
        for utterance in self._queue:
            if utterance.sent and not utterance.confirmed and utterance.first_index < proven_index:
                utterance.confirmed = True
                self._notices.append(Notice("confirmed", utterance.generation))
        self._play_until(now)
        self._settle(now)

    # --- being interrupted ---

    def hold(self, now: float) -> None:
        """Be silent and keep what was not heard, the word that is cut from its beginning. The caller sends `clear`.

        Nothing is sent, and nothing ends, until `release` or `interrupt`. Without word timings the cut lies between
        two frames. Idempotent.
        """
        if self._held:
            return
        self._play_until(now)
        overdue = self._marks.overdue_index(now)
        for utterance in self._queue:
            if utterance.sent:
                utterance.rewind(now, overdue)
                utterance.first_index = self._played_index - utterance.sent
        self._held = True
        self._drop_far_buffer(now)

    def release(self, now: float) -> None:
        """Go on after `hold`; `playing` tells when sound is there again."""
        self._held = False
        self._settle(now)

    def interrupt(self, now: float) -> list[Spoken]:
        """Stop: unsent frames and what the far buffer still holds are dropped. The caller sends `clear`.

        What was heard before a hold counts too; the hold is over.
        """
        self._play_until(now)
        overdue = self._marks.overdue_index(now)
        spoken = [u.spoken(now, u.heard_s(now, cut=True, overdue=overdue), self._chars_per_s) for u in self._queue]
        self._queue.clear()
        self._held = False
        self._drop_far_buffer(now)
        self._notices = [notice for notice in self._notices if notice.kind == "drained"]
        return spoken

    def _drop_far_buffer(self, now: float) -> None:
        self._in_flight.clear()
        self._marks.drop()
        self._sent_index = self._played_index
        self._free_at = now

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
        return self.ahead_s(now) > 0 or (self._marks.proven and bool(self._marks))

    def ahead_s(self, now: float) -> float:
        """Seconds of audio in the far buffer, by the model."""
        return max(0.0, self._free_at - now)

    def left_s(self, now: float) -> float:
        """Seconds of speech that the callee has still to hear; infinite while more of it is being made."""
        if any(not utterance.complete for utterance in self._queue):
            return float("inf")
        return self.ahead_s(now) + sum(len(utterance.unsent) for utterance in self._queue) * FRAME_S
