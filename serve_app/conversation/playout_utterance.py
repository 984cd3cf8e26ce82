"""One utterance in the playout: its frames, sent or not, and how much of it was heard. Sans-I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from serve_app.audio.framing import Framer
from serve_app.conversation.ledger import Spoken, SpokenText
from serve_app.telephony.base import FRAME_MS

FRAME_S = FRAME_MS / 1000
KEPT_FRAMES = 150
"""Frames kept after they were sent, 3 s: what the far buffer may hold and a word before it."""
# Floating-point sums of 0.02 must not lose a frame.
_EPSILON_S = 1e-6


@dataclass(slots=True)
class Utterance:
    """`sent` and `played` are places in the utterance: a frame that is played again after a hold counts once."""

    generation: int
    framer: Framer
    text: SpokenText = field(default_factory=SpokenText)
    unsent: deque[bytes] = field(default_factory=deque)
    kept: deque[bytes] = field(default_factory=lambda: deque(maxlen=KEPT_FRAMES))
    """The latest frames that were sent."""
    complete: bool = False
    failed: bool = False
    framed: int = 0
    sent: int = 0
    played: int = 0
    first_index: int = 0
    """The call's number of the utterance's first frame, replayed frames counted again."""
    held_s: float = 0.0
    """What had been heard at the latest hold: less than that was never heard."""
    started_at: float | None = None
    ended_at: float | None = None
    quiet: bool = True
    """Nothing of it sounds: not yet, not for now, or held. The next frame is news."""
    resumed: bool = False
    """Its next frame is the first after a hold, or after what was played inside it."""
    confirmed: bool = False
    first_mark: str | None = None
    final_mark: str | None = None
    pieces_marked: int = 0

    @property
    def audio_s(self) -> float:
        """Seconds of audio received."""
        return (self.framed + self.framer.pending_bytes / self.framer.frame_bytes) * FRAME_S

    @property
    def dry(self) -> bool:
        """All that came of it was played, and more must come."""
        return self.quiet and not self.unsent and not self.complete

    @property
    def finished_sending(self) -> bool:
        return self.complete and not self.unsent

    # --- filling ---

    def push(self, audio: bytes) -> bool:
        """True when a frame is there and none was before."""
        frames = self.framer.push(audio)
        starved = not self.unsent and bool(frames)
        self.unsent.extend(frames)
        self.framed += len(frames)
        return starved

    def finish(self, *, failed: bool) -> None:
        if (tail := self.framer.flush()) is not None:
            self.unsent.append(tail)
            self.framed += 1
        self.complete, self.failed = True, failed

    # --- what was heard ---

    def heard_s(self, now: float, *, cut: bool, overdue: int | None) -> float:
        """Seconds of it that the callee has heard. `cut`: the frame that plays now is not heard to its end.

        `overdue`: the frame of the call that the far end has not passed, if that is known.
        """
        played = self.played
        if overdue is not None and self.sent:
            played = max(0, min(played, overdue - self.first_index))
        heard_s = played * FRAME_S
        if cut and played == self.played and self.ended_at is not None and self.ended_at > now:
            heard_s -= self.ended_at - now
        return max(heard_s, self.held_s)

    def heard_chars(self, heard_s: float, chars_per_s: float) -> int:
        """Characters of the text that were heard in `heard_s` seconds. `chars_per_s`: where nothing better is known."""
        return self.text.heard_chars(
            heard_s, self.audio_s, complete=self.complete, failed=self.failed, chars_per_s=chars_per_s
        )

    def spoken(self, now: float, heard_s: float, chars_per_s: float) -> Spoken:
        text = self.text.text
        heard = self.heard_chars(heard_s, chars_per_s)
        if not text[heard:].strip():
            heard = len(text)
        return Spoken(
            generation=self.generation,
            text=text,
            heard_text=text[:heard],
            interrupted=heard < len(text),
            started_at=self.started_at if self.ended_at is not None else None,
            ended_at=min(self.ended_at, now) if self.ended_at is not None else None,
            played_ms=round(max(self.played * FRAME_S, self.held_s) * 1000, 3),
        )

    # --- holding ---

    def rewind(self, now: float, overdue: int | None) -> None:
        """Take back what was sent and not heard, from the beginning of the word that is cut. Its marks are lost."""
        self.held_s = self.heard_s(now, cut=True, overdue=overdue)
        keep = int(self.text.resume_s(self.held_s) / FRAME_S + _EPSILON_S)
        back = min(self.sent - min(keep, self.sent), len(self.kept))
        for _ in range(back):
            self.unsent.appendleft(self.kept.pop())
        self.sent -= back
        self.played = self.sent
        if self.ended_at is not None:
            self.ended_at = min(self.ended_at, now)
        self.quiet = self.resumed = True
        self.final_mark = None
        if not self.confirmed:
            self.first_mark = None
        while self.pieces_marked and not self.has_sent_piece(self.pieces_marked - 1):
            self.pieces_marked -= 1

    def has_sent_piece(self, index: int) -> bool:
        """Whether the text's piece was sent to its end, as far as that is known."""
        end_s = self.text.piece_end_s(index)
        return end_s is not None and end_s <= self.sent * FRAME_S
