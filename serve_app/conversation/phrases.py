"""What people say on the phone, by language: words that interrupt and words that do not, goodbyes, opt-outs, fixed lines.

The lists are data: `phrases/<language>.yaml`, every one checked when it is first read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

Language = Literal["en", "es", "fr"]
LineName = Literal["apology", "still_there", "duration_warning", "farewell", "failure_farewell", "opted_out"]


class Phrases(BaseModel):
    """One language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """In English, for the model's instructions."""
    always_interrupt: tuple[str, ...]
    backchannels: tuple[str, ...]
    greetings: tuple[str, ...]
    """How people answer a phone: no answer to an opening that is being said."""
    goodbyes: tuple[str, ...]
    opt_out: tuple[str, ...]
    """Never to be called again, in words that mean nothing else."""
    language_requests: tuple[str, ...]
    """Asking to be spoken to in this language, in it and in others."""
    fillers: tuple[str, ...]
    lines: Mapping[LineName, str]


@cache
def phrases_of(language: Language) -> Phrases:
    """Raises pydantic.ValidationError for a file that lacks a list."""
    file = resources.files("serve_app.conversation") / "phrases" / f"{language}.yaml"
    return Phrases.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def normalise_words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold().replace("’", "'"))


class PhraseMatcher:
    """Recognises phrases in a text, word by word."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = [words for words in map(normalise_words, phrases) if words]

    def at_end(self, text: str) -> bool:
        words = normalise_words(text)
        return any(words[-len(phrase) :] == phrase for phrase in self._phrases)

    def anywhere(self, text: str) -> bool:
        words = normalise_words(text)
        return any(
            words[i : i + len(phrase)] == phrase
            for phrase in self._phrases
            for i in range(len(words) - len(phrase) + 1)
        )

    def covers(self, text: str) -> bool:
        """Nothing but phrases, one after the other; true for a text without words."""
        words = normalise_words(text)
        while words:
            longest = max((len(p) for p in self._phrases if words[: len(p)] == p), default=0)
            if not longest:
                return False
            words = words[longest:]
        return True
