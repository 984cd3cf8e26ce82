"""Whether a callee says, in so many words, never to be called again: the layer between the key and the model.

What the words mean is often decided by the one that follows ("don't call me again" - "before nine"). So a phrase that
can be limited counts once a word follows that does not limit it, or when nothing follows any more. What it cannot
decide is no loss: the model hears the whole turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from serve_app.conversation.phrases import Language, PhraseMatcher, normalise_words, phrases_of


class OptOutMatcher:
    """For the languages of one agent. Immutable: `opt_out_matcher` shares them over the calls of a process."""

    def __init__(self, own: Sequence[str], languages: Sequence[Language]) -> None:
        """`own`: the agent's own phrases. They count wherever they are said."""
        lists = [phrases_of(language).opt_out for language in languages]
        self._courtesies = PhraseMatcher(p for language in languages for p in phrases_of(language).courtesies)
        self._always = PhraseMatcher([*own, *(p for one in lists for p in one.always)])
        self._limitable = [
            (PhraseMatcher(one.unless_limited), frozenset(w for p in one.limits for w in normalise_words(p)))
            for one in lists
        ]
        self._negators = PhraseMatcher(p for one in lists for p in one.negators)
        self._at_end = PhraseMatcher(p for one in lists for p in one.at_end)
        self._alone = PhraseMatcher(p for one in lists for p in one.alone)
        self._alone_or_padding = PhraseMatcher(p for one in lists for p in (*one.alone, *one.padding))

    def heard(self, text: str, *, final: bool) -> bool:
        """`text`: the callee's turn so far. `final`: nothing follows any more, also because the callee hung up."""
        all_words = normalise_words(text)
        words = self._without_courtesies(all_words)
        # With the courtesies too: one may be part of a phrase of the agent's own.
        if self._always.anywhere_in(all_words) or self._always.anywhere_in(words):
            return True
        for start in range(len(words)):
            if self._is_negated(words, start):
                continue
            if final and self._at_end.longest(words, start) == len(words):
                return True
            for phrases, limits in self._limitable:
                end = phrases.longest(words, start)
                if end > start and (words[end] not in limits if end < len(words) else final):
                    return True
        return final and self._is_all_that_is_said(words)

    def _is_negated(self, words: Sequence[str], start: int) -> bool:
        """ "Don't stop calling me". What begins with a negator itself is not turned round by the one before."""
        if self._negators.longest(words, start) > start:
            return False
        return any(start in self._negators.ends(words, before) for before in range(max(0, start - 2), start))

    def _is_all_that_is_said(self, words: Sequence[str]) -> bool:
        return self._alone.anywhere_in(words) and self._alone_or_padding.covers_words(words)

    def _without_courtesies(self, words: Sequence[str]) -> list[str]:
        kept: list[str] = []
        position = 0
        while position < len(words):
            end = self._courtesies.longest(words, position)
            if end == position:
                kept.append(words[position])
                end += 1
            position = end
        return kept


@lru_cache(256)
def opt_out_matcher(own: tuple[str, ...], languages: tuple[Language, ...]) -> OptOutMatcher:
    """The matcher of these phrases and languages, made once in a process."""
    return OptOutMatcher(own, languages)
