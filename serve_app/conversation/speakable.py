"""Text as a language model writes it -> text that a synthesizer says right, and the way back for the ledger.

Markdown, emoji, addresses, numbers, money, times, dates, phone numbers, abbreviations and signs are replaced; all else
goes through as it is. A text without any of them costs one regular expression.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable_markup import Replacement, links, markup
from serve_app.conversation.speakable_names import Rule, address_rules, code_rules, phone_rules, word_rules
from serve_app.conversation.speakable_quantities import quantity_rules
from serve_app.conversation.speakable_times import date_rules, time_rules
from serve_app.conversation.speakable_words import wordings_of

_WORD = re.compile(r"\S+")
# Something in every text that any rule would change, but for an abbreviation at its end.
_SPECIAL = re.compile(
    r"[0-9*_`#|<>\[\]\\\n/&@+=~%‰°$€£¥₹§№©™®½⅓⅔¼¾≤≥×÷±≈≠→\U0001F000-\U0001FAFF\U000E0020-\U000E007F"
    r"\u2300-\u23FF\u2600-\u27BF\u2B00-\u2BFF\uFE0E\uFE0F\u200B-\u200F\u2060\u20E3]|\.(?!\s*$)|^\s*[-•]\s"
)
_FIGURE = re.compile("[0-9½⅓⅔¼¾]")
_SOUNDS = re.compile(r".*\w", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Speakable:
    """`text` as written, `spoken` for the synthesizer. They differ where `replaced` says so, and nowhere else."""

    text: str
    spoken: str
    replaced: tuple[tuple[int, int, int, int], ...] = ()
    """Start and end in `text`, start and end in `spoken`; in order, without overlap."""

    def written_end(self, spoken_chars: int) -> int:
        """The end of the last word of `text` that was said when `spoken[:spoken_chars]` was; 0 for none.

        A number counts as said when its last spoken word was. What has no sound goes with the word before it.
        """
        end = 0
        for word in _WORD.finditer(self.text):
            said = self._said_at(word.start(), word.end())
            if said is not None and said > spoken_chars:
                break
            if said is not None or end:
                end = word.end()
        return end

    def _said_at(self, start: int, end: int) -> int | None:
        """Where in `spoken` the last letter of a word of `text` ends; None when it has none."""
        first, last = self._in_spoken(start, at_end=False), self._in_spoken(end, at_end=True)
        sounding = _SOUNDS.match(self.spoken[first:last])
        return None if sounding is None else first + sounding.end()

    def _in_spoken(self, position: int, *, at_end: bool) -> int:
        shift = 0
        for text_start, text_end, spoken_start, spoken_end in self.replaced:
            if position < text_start or (position == text_start and at_end):
                break
            if position < text_end:
                return spoken_end if at_end else spoken_start
            shift = spoken_end - text_end
        return position + shift


def speakable(text: str, language: Language) -> Speakable:
    """`text`: a piece as the sentence splitter gives it. The spoken form may be empty (a rule, an emoji)."""
    rules = _rules_of(language)
    if _SPECIAL.search(text) is None and _last_word(text) not in rules.abbreviations:
        return Speakable(text, text)
    return _replaced(text, _chosen(text, rules))


@dataclass(frozen=True, slots=True)
class _Rules:
    abbreviations: frozenset[str]
    """Lower-case, with their full stops."""
    addresses: tuple[Rule, ...]
    figures: tuple[Rule, ...]
    words: tuple[Rule, ...]


@cache
def _rules_of(language: Language) -> _Rules:
    wordings = wordings_of(language)
    codes, rest = code_rules(language)
    figures = [
        *date_rules(language),
        *phone_rules(language),
        *codes,
        *time_rules(language),
        *quantity_rules(language),
        *rest,
    ]
    abbreviations = frozenset(f"{word.lower()}." for word in (*wordings.titles, *wordings.abbreviations))
    return _Rules(abbreviations, tuple(address_rules(language)), tuple(figures), tuple(word_rules(language)))


def _chosen(text: str, rules: _Rules) -> list[Replacement]:
    """Without overlap, in order. Who comes first has the span: no number is looked for in an address, nor an address
    behind a link's text.
    """
    chosen: list[Replacement] = []
    taken = bytearray(len(text))
    figures = rules.figures if _FIGURE.search(text) else ()
    candidates = itertools.chain(
        links(text), _found(text, rules.addresses), markup(text), _found(text, figures), _found(text, rules.words)
    )
    for start, end, said in candidates:
        if not any(taken[start:end]):
            taken[start:end] = b"\1" * (end - start)
            chosen.append((start, end, said))
    return sorted(chosen)


def _last_word(text: str) -> str:
    return text[text.rstrip().rfind(" ") + 1 :].strip().lower()


def _found(text: str, rules: tuple[Rule, ...]) -> Iterator[Replacement]:
    for pattern, read in rules:
        for match in pattern.finditer(text):
            if (said := read(match)) is not None:
                yield match.start(), match.end(), said


def _replaced(text: str, replacements: list[Replacement]) -> Speakable:
    parts: list[str] = []
    replaced = []
    length = done = 0

    def add(part: str) -> None:
        nonlocal length
        parts.append(part)
        length += len(part)

    for start, end, said in replacements:
        add(text[done:start])
        before = next((part[-1] for part in reversed(parts) if part), "")
        apart_before = " " if said[:1].isalnum() and before.isalnum() else ""
        apart_behind = " " if said[-1:].isalnum() and text[end : end + 1].isalnum() else ""
        said_apart = f"{apart_before}{said}{apart_behind}"
        replaced.append((start, end, length, length + len(said_apart)))
        add(said_apart)
        done = end
    add(text[done:])
    return Speakable(text, "".join(parts), tuple(replaced))
