"""One utterance in the ledger: text span -> audio span -> what was played.

The synthesizer says the spoken form of the text (`Speakable`). Word timings, where it gives them, tie that form to the
audio; without them it is shared in proportion. What was heard is told in words of the text as it was written.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from serve_app.conversation.speakable import Speakable
from serve_app.providers.base import Word

TYPICAL_CHARS_PER_S = 15.0
"""How fast people speak. Used only while the audio of a text is not complete and has no word timings."""
_TIMINGS_LAG_S = 0.25
"""How far the audio may be ahead of the word timings before the rest is shared in proportion."""
_LOOK_AHEAD = 24
"""Letters: a word that was said differently is stepped over, and a common one further on drags nothing with it."""
_EPSILON_S = 1e-6


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
    """The text of one utterance and its place in the utterance's audio. All seconds are of the utterance."""

    text: str = ""
    """As written."""
    spoken: str = ""
    _pieces: list[Speakable] = field(default_factory=list)
    _written_starts: list[int] = field(default_factory=list)
    _spoken_starts: list[int] = field(default_factory=list)
    # Words are compared by their letters and digits alone: synthesizers differ in what they do with the rest.
    _letters: str = ""
    _letter_ends: list[int] = field(default_factory=list)  # letter -> the position behind it in `spoken`
    _piece_letters: list[int] = field(default_factory=list)  # letters up to the end of each piece
    _word_starts_s: list[float] = field(default_factory=list)
    _word_ends_s: list[float] = field(default_factory=list)
    _word_letters: list[int] = field(default_factory=list)  # letters said when the timed word was
    _said_letters: int = 0

    @property
    def pieces(self) -> int:
        return len(self._pieces)

    def append(self, piece: Speakable) -> None:
        """A piece that goes to the synthesizer after those before it."""
        self._pieces.append(piece)
        self._written_starts.append(len(self.text))
        self._spoken_starts.append(len(self.spoken))
        letters, before = [], len(self.spoken)
        for position, char in enumerate(piece.spoken, before + 1):
            if char.isalnum():
                for letter in char.lower():
                    letters.append(letter)
                    self._letter_ends.append(position)
        self._letters += "".join(letters)
        self._piece_letters.append(len(self._letters))
        self.text += piece.text
        self.spoken += piece.spoken

    def add_timings(self, words: tuple[Word, ...]) -> None:
        """Words as spoken, in order. One that is not in the text advances in time only."""
        for word in words:
            end_s = word.end_s if word.end_s is not None else word.start_s
            if end_s is None:
                continue
            previous_s = self._word_ends_s[-1] if self._word_ends_s else 0.0
            end_s = max(end_s, previous_s)
            start_s = previous_s if word.start_s is None else min(max(word.start_s, previous_s), end_s)
            self._said_letters = self._after(word.text)
            self._word_starts_s.append(start_s)
            self._word_ends_s.append(end_s)
            self._word_letters.append(self._said_letters)

    def forget_timings_after(self, audio_s: float) -> None:
        """The audio ends here, and with it what was told of words that were to come; another voice says them."""
        kept = bisect.bisect_right(self._word_ends_s, audio_s + _EPSILON_S)
        del self._word_starts_s[kept:], self._word_ends_s[kept:], self._word_letters[kept:]
        self._said_letters = self._word_letters[-1] if kept else 0

    def _after(self, word: str) -> int:
        """The letters that are said once `word` is, the next one of the spoken form."""
        said, needle = self._said_letters, "".join(char.lower() for char in word if char.isalnum())
        if not needle or self._letters.startswith(needle, said):
            return said + len(needle)
        found = self._letters.find(needle, said, said + _LOOK_AHEAD + len(needle)) if len(needle) > 2 else -1
        return found + len(needle) if found >= 0 and self._begins_word(found) else said

    def _begins_word(self, letter: int) -> bool:
        position = self._letter_ends[letter] - 1
        return position == 0 or not self.spoken[position - 1].isalnum()

    def heard_chars(
        self,
        played_s: float,
        audio_s: float,
        *,
        complete: bool,
        failed: bool = False,
        chars_per_s: float = TYPICAL_CHARS_PER_S,
    ) -> int:
        """How many characters of `text` were heard after `played_s` of `audio_s` seconds, cut at a word's end.

        `complete`: no more audio follows; `failed`: it does not cover the text. A word counts as heard once it was
        played to its end. `chars_per_s`: of the spoken form, where nothing better is known.
        """
        whole = complete and not failed
        if whole and played_s >= audio_s:
            return len(self.text)
        if played_s <= 0:
            return 0
        spoken, timed_s = 0, 0.0
        if self._word_ends_s:
            words, timed_s = bisect.bisect_right(self._word_ends_s, played_s + _EPSILON_S), self._word_ends_s[-1]
            letters = self._word_letters[words - 1] if words else 0
            spoken = self._letter_ends[letters - 1] if letters else 0
            if failed or played_s <= timed_s + _TIMINGS_LAG_S:
                return self._written(spoken)
        rest = len(self.spoken) - spoken
        rate = rest / (audio_s - timed_s) if whole and audio_s > timed_s else chars_per_s
        return self._written(spoken + int(min(rate * (played_s - timed_s), rest)))

    def _written(self, spoken: int) -> int:
        """The end in `text` of the last word that was said with the first `spoken` characters of the spoken form."""
        index = bisect.bisect_right(self._spoken_starts, spoken) - 1
        if index < 0:
            return 0
        start = self._written_starts[index]
        end = self._pieces[index].written_end(spoken - self._spoken_starts[index])
        if not end:
            return len(self.text[:start].rstrip())
        if end < len(self._pieces[index].text.rstrip()):
            return start + end
        # Pieces without any sound go with the one before them.
        last = bisect.bisect_right(self._piece_letters, self._piece_letters[index]) - 1
        return self._written_starts[last] + len(self._pieces[last].text.rstrip())

    def resume_s(self, heard_s: float) -> float:
        """Where to go on after `heard_s`: the beginning of the word that was cut, where timings tell it."""
        word = bisect.bisect_right(self._word_ends_s, heard_s + _EPSILON_S)
        if word < len(self._word_ends_s) and self._word_starts_s[word] < heard_s:
            return self._word_starts_s[word]
        return heard_s

    def piece_end_s(self, index: int) -> float | None:
        """When the piece has been spoken; None while it is not known."""
        word = bisect.bisect_left(self._word_letters, self._piece_letters[index])
        return self._word_ends_s[word] if word < len(self._word_ends_s) else None
