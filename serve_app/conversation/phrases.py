"""What people say on the phone, by language: words that interrupt or do not, goodbyes, opt-outs, fixed lines.

The lists are data: `phrases/<language>.yaml`, every one checked when it is first read. In a phrase `(a|b)` stands for
one of these, `[a|b]` for one of these or nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict

Language = Literal["en", "es", "fr"]
LineName = Literal["apology", "still_there", "duration_warning", "farewell", "failure_farewell", "opted_out"]

_CHOICE = re.compile(r"(\([^()\[\]]*\)|\[[^()\[\]]*\])")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def _well_formed(phrases: tuple[str, ...]) -> tuple[str, ...]:
    for phrase in phrases:
        if any(bracket in part for part in _CHOICE.split(phrase)[::2] for bracket in "()[]|"):
            raise ValueError(f"{phrase!r}: brackets must match, and must not be nested")
        if not _slots(phrase):
            raise ValueError(f"{phrase!r}: no words")
    return phrases


PhraseList = Annotated[tuple[str, ...], AfterValidator(_well_formed)]


class OptOutPhrases(BaseModel):
    """Never to be called again. What is not in here, in whatever words, is for the model to understand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    always: PhraseList
    """Mean it, whatever is said before and after: count as soon as they are heard."""
    unless_limited: PhraseList
    """Mean it unless the next word is one of `limits`: "don't call me again (before nine)"."""
    limits: PhraseList
    negators: PhraseList
    """Right before such a phrase they turn it round: "don't stop calling me"."""
    at_end: PhraseList
    """Mean it if nothing follows: "stop calling me (Bob)"."""
    alone: PhraseList
    """Mean it if nothing else is said, but `padding`: "don't call me"."""
    padding: PhraseList


class Phrases(BaseModel):
    """One language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """In English, for the model's instructions."""
    always_interrupt: PhraseList
    backchannels: PhraseList
    greetings: PhraseList
    """How people answer a phone: no answer to an opening that is being said."""
    goodbyes: PhraseList
    """Wherever they are said, but not in a question."""
    goodbyes_at_end: PhraseList
    """Goodbyes only where nothing follows ("take care" - "of children")."""
    not_goodbyes: PhraseList
    """A goodbye that begins in one of these is none ("I want to see you tomorrow")."""
    question_openers: PhraseList
    """What begins with one of these, `lead_ins` aside, is asked."""
    lead_ins: PhraseList
    """Said before the words that matter, besides backchannels, greetings and courtesies."""
    opt_out: OptOutPhrases
    language_requests: PhraseList
    """Asking to be spoken to in this language, in it and in others."""
    language_requests_alone: PhraseList
    """So do these if nothing else is said, `lead_ins` aside."""
    courtesies: PhraseList
    """Said in the middle of anything, and change nothing."""
    fillers: tuple[str, ...]
    lines: Mapping[LineName, str]


@cache
def phrases_of(language: Language) -> Phrases:
    """Raises pydantic.ValidationError for a file that lacks a list."""
    file = resources.files("serve_app.conversation") / "phrases" / f"{language}.yaml"
    return Phrases.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def normalise_words(text: str) -> list[str]:
    """Words without case, accents, apostrophes and punctuation: transcribers set these in one way or another."""
    folded = unicodedata.normalize("NFKD", text.casefold().replace("’", "'"))
    plain = "".join(char for char in folded if not unicodedata.combining(char))
    return [word.replace("'", "") for word in _WORD.findall(plain)]


_Words = tuple[str, ...]
_Slots = tuple[tuple[_Words, ...], ...]
"""What may be said at each place of a phrase; no words where it may be left out."""


def _slots(phrase: str) -> _Slots:
    slots: list[tuple[_Words, ...]] = []
    for part in _CHOICE.split(phrase):
        if not _CHOICE.fullmatch(part):
            slots += [((word,),) for word in normalise_words(part)]
            continue
        choices = {tuple(normalise_words(choice)) for choice in part[1:-1].split("|")}
        choices -= {()}
        slots.append((*sorted(choices), *([()] if part[0] == "[" else [])))
    return tuple(slot for slot in slots if slot)


def _ends(slots: _Slots, words: Sequence[str], start: int) -> Iterator[int]:
    """Where a phrase that begins at `start` may end: the index after its last word."""
    if not slots:
        yield start
        return
    for choice in slots[0]:
        end = start + len(choice)
        if tuple(words[start:end]) == choice:
            yield from _ends(slots[1:], words, end)


def _begin(slots: _Slots, words: Sequence[str], start: int) -> bool:
    """Whether the words from `start` on are the beginning of a phrase, and not all of it."""
    if not slots:
        return False
    for choice in slots[0]:
        said = tuple(words[start : start + len(choice)])
        if start + len(choice) <= len(words):
            if said == choice and _begin(slots[1:], words, start + len(choice)):
                return True
        elif said == choice[: len(said)]:
            return True
    return False


class PhraseMatcher:
    """Recognises phrases in a text, word by word. Immutable: `matcher` shares them over the calls of a process."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._by_first_word: dict[str, list[_Slots]] = {}
        for slots in filter(None, map(_slots, phrases)):
            for word in _first_words(slots):
                self._by_first_word.setdefault(word, []).append(slots)

    def ends(self, words: Sequence[str], start: int) -> Iterator[int]:
        """Where phrases that begin at `start` end, in no order."""
        for slots in self._by_first_word.get(words[start], ()):
            for end in _ends(slots, words, start):
                if end > start:
                    yield end

    def longest(self, words: Sequence[str], start: int) -> int:
        """The end of the longest phrase that begins at `start`; `start` if none does."""
        if words[start] not in self._by_first_word:  # nearly always: asked for every word of every partial text
            return start
        return max(self.ends(words, start), default=start)

    def may_follow(self, words: Sequence[str], start: int) -> bool:
        """Whether the words from `start` to their end begin a phrase that more words would complete."""
        return any(_begin(slots, words, start) for slots in self._by_first_word.get(words[start], ()))

    def at_end(self, text: str) -> bool:
        words = normalise_words(text)
        return any(end == len(words) for start in range(len(words)) for end in self.ends(words, start))

    def anywhere(self, text: str) -> bool:
        return self.anywhere_in(normalise_words(text))

    def anywhere_in(self, words: Sequence[str]) -> bool:
        return any(self.longest(words, start) > start for start in range(len(words)))

    def covers(self, text: str) -> bool:
        """Nothing but phrases, one after the other; true for a text without words."""
        return self.covers_words(normalise_words(text))

    def covers_words(self, words: Sequence[str]) -> bool:
        position = 0
        while position < len(words):
            end = self.longest(words, position)
            if end == position:
                return False
            position = end
        return True


def _first_words(slots: _Slots) -> set[str]:
    found: set[str] = set()
    for slot in slots:
        found |= {choice[0] for choice in slot if choice}
        if () not in slot:
            break
    return found


@lru_cache(256)
def matcher(phrases: tuple[str, ...]) -> PhraseMatcher:
    """The matcher of these phrases, made once in a process."""
    return PhraseMatcher(phrases)
