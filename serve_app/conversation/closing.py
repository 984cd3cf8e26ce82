"""Goodbyes: whether both sides have said theirs. Sans-I/O, part of the turn machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_app.conversation.phrases import Language, Phrases, matcher, normalise_words, phrases_of
from serve_app.conversation.speakable_words import wordings_of

WORDS_AFTER = 4
"""What may follow on the agent's goodbye in its last sentence: a name, a time."""

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)]*\s+")
_CLAUSE = re.compile(r"[,;:—–]")
_CLOSING = " \t\n\"'”’»)*"


@dataclass(frozen=True, slots=True)
class _Word:
    word: str
    sentence: int
    asked: bool
    """It is part of a question."""


class Goodbyes:
    """Of the callee's latest turn, and of the model that answers it. Those of all the agent's languages count."""

    def __init__(self, own: Sequence[str], languages: Sequence[Language]) -> None:
        """`own`: the agent's own goodbyes."""
        lists = [phrases_of(language) for language in languages]
        self._anywhere = matcher((*own, *(p for one in lists for p in one.goodbyes)))
        self._at_end = matcher(tuple(p for one in lists for p in one.goodbyes_at_end))
        self._none = matcher(tuple(p for one in lists for p in one.not_goodbyes))
        self._questions = matcher(tuple(p for one in lists for p in one.question_openers))
        self._lead_ins = matcher(tuple(p for one in lists for p in lead_ins(one)))
        self._titles = frozenset(
            normal for one in languages for title in wordings_of(one).titles for normal in normalise_words(title)
        )
        self._said = False
        self._model_ends_the_call = False
        self.mentioned = False
        """Somewhere in the callee's turn: it needs the agent's own to mean the end."""

    # --- what happens ---

    def callee_said(self, text: str) -> None:
        words = self._words(text)
        found = list(self._found(words))
        self._said = self._ends_with_one(text, words, found)
        self.mentioned = bool(found)

    def model_ends_the_call(self) -> None:
        self._model_ends_the_call = True

    def forget(self) -> None:
        """The callee goes on, or something went wrong: the conversation is not over."""
        self._said = self.mentioned = self._model_ends_the_call = False

    def agent_asked(self) -> None:
        """It wants an answer, so nobody ends the call yet. A callee who said goodbye may still hang up."""
        self._said = self._model_ends_the_call = False

    # --- what it means ---

    def is_one(self, text: str) -> bool:
        """The text ends with a goodbye."""
        words = self._words(text)
        return self._ends_with_one(text, words, list(self._found(words)))

    @property
    def farewell_due(self) -> bool:
        """The call is to end, and the agent has yet to say so."""
        return self._said or self._model_ends_the_call

    def answered_with(self, text: str) -> bool:
        """Whether this reply ends with a goodbye to one who said it, or by the model's own wish."""
        if not (self.mentioned or self._model_ends_the_call) or is_question(text):
            return False
        words = self._words(text)
        return any(
            words[start].sentence == words[-1].sentence and len(words) - end <= WORDS_AFTER
            for start, end in self._found(words)
        )

    def _ends_with_one(self, text: str, words: Sequence[_Word], found: Sequence[tuple[int, int]]) -> bool:
        return not is_question(text) and any(end == len(words) for _, end in found)

    def _found(self, words: Sequence[_Word]) -> Iterator[tuple[int, int]]:
        """Where goodbyes begin and end."""
        plain = [one.word for one in words]
        none_until = 0
        for start, word in enumerate(words):
            none_end = self._none.longest(plain, start)
            last = [end for end in self._at_end.ends(plain, start) if end == len(plain)]
            for end in (*self._anywhere.ends(plain, start), *last):
                if not word.asked and start >= none_until and (end > none_end or none_end == start):
                    yield start, end
            none_until = max(none_until, none_end)

    def _words(self, text: str) -> list[_Word]:
        words: list[_Word] = []
        sentence = 0
        for part in _SENTENCE_END.split(text):
            asked = "?" in part or "¿" in part
            for clause in _CLAUSE.split(part):
                plain = normalise_words(clause)
                one = asked or self._opens_a_question(plain)
                words += [_Word(word, sentence, one) for word in plain]
            if words and words[-1].word not in self._titles:
                sentence += 1
        return words

    def _opens_a_question(self, words: Sequence[str]) -> bool:
        position = 0
        while position < len(words):
            if self._questions.longest(words, position) > position:
                return True
            end = self._lead_ins.longest(words, position)
            if end == position:
                return False
            position = end
        return False


def lead_ins(phrases: Phrases) -> tuple[str, ...]:
    """What is said before the words that matter, and changes nothing."""
    return (*phrases.lead_ins, *phrases.backchannels, *phrases.greetings, *phrases.courtesies)


def is_question(text: str) -> bool:
    return text.rstrip(_CLOSING).endswith("?")
