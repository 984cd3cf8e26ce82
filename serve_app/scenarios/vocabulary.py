"""Words as sound that can be told apart: what a scripted ear hears is what was really played, sample by sample.

Sound is 16-bit mono. Every sample of a word carries the word's number, so an ear needs no side channel: a frame that
was cleared, cut or repeated is known as such. No sample of a word is zero, and its frames differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

RATE_HZ = 8000
FRAME_BYTES = 320
FRAME_S = 0.02
# Above what the deafness watch takes for line noise, and within 16 bits.
_BASE, _PHASES = 1000, 4
_NUMBERS = (0x7FFF - _BASE) // _PHASES


@dataclass(frozen=True, slots=True)
class SoundingWord:
    """One word of one utterance. An empty text is noise."""

    number: int
    text: str
    samples: int
    confidence: float = 1.0
    more_follows: bool = False
    """The utterance goes on after the pause that follows this word."""


class Vocabulary:
    """Numbers words as they are said. The numbers are used again after some 7,900 words."""

    def __init__(self) -> None:
        self._words: dict[int, SoundingWord] = {}
        self._next = 0

    def sound(
        self, text: str, duration_s: float, *, confidence: float = 1.0, more_follows: bool = False
    ) -> tuple[SoundingWord, bytes]:
        """A word and its sound."""
        samples = max(1, round(duration_s * RATE_HZ))
        word = SoundingWord(self._next, text, samples, confidence, more_follows)
        self._words[self._next % _NUMBERS] = word
        first = _BASE + self._next % _NUMBERS * _PHASES
        self._next += 1
        frames = -(-samples * 2 // FRAME_BYTES)
        pcm = b"".join((first + i % _PHASES).to_bytes(2, "little") * (FRAME_BYTES // 2) for i in range(frames))
        return word, pcm[: samples * 2]

    def hear(self, pcm: bytes) -> Iterator[tuple[SoundingWord | None, int]]:
        """The words in a piece of sound with the number of their samples, in order; None is silence."""
        if pcm[:2] * (len(pcm) // 2) == pcm:
            yield self._word(int.from_bytes(pcm[:2], "little", signed=True)), len(pcm) // 2
            return
        for word, samples in groupby(map(self._word, memoryview(pcm).cast("h"))):
            yield word, sum(1 for _ in samples)

    def _word(self, sample: int) -> SoundingWord | None:
        return self._words.get((sample - _BASE) // _PHASES) if sample >= _BASE else None
