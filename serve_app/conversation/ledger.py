"""One utterance in the ledger: text span -> audio span -> what was played.

Word timings, where the synthesizer gives them, tie the text to the audio; without them it is shared in proportion.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field

from serve_app.providers.base import Word

# Used only for the part of an utterance whose audio has not come yet and that has no word timings.
_TYPICAL_CHARS_PER_S = 15.0


@dataclass(frozen=True, slots=True)
class Spoken:
    """What became of an utterance. `heard_text + unheard_text` is the text, and the cut lies between two words."""

    generation: int
    text: str
    heard_text: str
    interrupted: bool
    started_at: float | None
    """Monotonic time when its first frame began to play; None when nothing was played."""
    ended_at: float | None
    played_ms: float

    @property
    def unheard_text(self) -> str:
        return self.text[len(self.heard_text) :]


@dataclass(slots=True)
class SpokenText:
    """The text of one utterance and its place in the utterance's audio."""

    text: str = ""
    sentence_ends: list[int] = field(default_factory=list)
    """Character positions where pushed pieces end."""
    _word_ends_chars: list[int] = field(default_factory=list)
    _word_ends_s: list[float] = field(default_factory=list)
    _cursor: int = 0

    def append(self, text: str) -> None:
        self.text += text
        self.sentence_ends.append(len(self.text))

    def add_timings(self, words: tuple[Word, ...]) -> None:
        """Words as spoken, in order. One that is not in the text (a number read out) advances in time only."""
        for word in words:
            end_s = word.end_s if word.end_s is not None else word.start_s
            if end_s is None:
                continue
            found = self._find(word.text)
            if found is not None:
                self._cursor = found
            previous = self._word_ends_s[-1] if self._word_ends_s else 0.0
            self._word_ends_s.append(max(end_s, previous))
            self._word_ends_chars.append(self._cursor)

    def _find(self, spoken: str) -> int | None:
        needle = spoken.strip().strip(".,;:!?\"'“”‘’()")
        if not needle:
            return None
        # Only near the cursor: a common word further on must not drag the cursor over a whole sentence.
        window = self.text[self._cursor : self._cursor + len(needle) + 40]
        match = re.search(rf"(?<!\w){re.escape(needle)}(?!\w)", window, re.IGNORECASE)
        return None if match is None else self._word_end(self._cursor + match.end())

    def _word_end(self, position: int) -> int:
        """The end of the word that holds `position`, punctuation after it included, white space not."""
        while position < len(self.text) and not self.text[position].isspace():
            position += 1
        return position

    def heard_chars(self, played_s: float, audio_s: float, *, complete: bool) -> int:
        """How many characters were heard after `played_s` of `audio_s` seconds, cut at a word's end.

        `complete`: all audio of the text is there. A word counts as heard once it was played to its end.
        """
        if complete and played_s >= audio_s:
            return len(self.text)
        if played_s <= 0:
            return 0
        timed_s = self._word_ends_s[-1] if self._word_ends_s else 0.0
        if self._word_ends_s:
            heard = bisect.bisect_right(self._word_ends_s, played_s + 1e-6)
            chars = self._word_ends_chars[heard - 1] if heard else 0
            if played_s <= timed_s + 0.25:
                return chars
            # Timings lag behind the audio: the rest in proportion.
            return self._proportion(chars, played_s - timed_s, max(audio_s - timed_s, 0.0), complete=complete)
        return self._proportion(0, played_s, audio_s, complete=complete)

    def _proportion(self, start: int, played_s: float, audio_s: float, *, complete: bool) -> int:
        rest = len(self.text) - start
        share = rest * played_s / audio_s if complete and audio_s > 0 else played_s * _TYPICAL_CHARS_PER_S
        position = min(start + int(min(share, rest)), len(self.text))
        if position == len(self.text) or self.text[position].isspace():
            return position
        # Inside a word: it was not heard to its end.
        while position > start and not self.text[position - 1].isspace():
            position -= 1
        return len(self.text[:position].rstrip()) if position > start else start

    def audio_end_s(self, chars: int) -> float | None:
        """When the text up to `chars` has been spoken, in seconds of the utterance; None while it is not known."""
        index = bisect.bisect_left(self._word_ends_chars, len(self.text[:chars].rstrip()))
        return self._word_ends_s[index] if index < len(self._word_ends_s) else None
