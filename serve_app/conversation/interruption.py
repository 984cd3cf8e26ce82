"""What counts as an interruption of the agent: one small object per call, asked with the words recognised so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from serve_app.conversation.agent import AgentPolicies
from serve_app.conversation.phrases import Language, matcher, normalise_words, phrases_of

Verdict = Literal["interrupt", "hold", "ignore"]

ANSWERS_WITHIN_S = 1.5
"""People answer over the last words of a question: so much of the agent's speech may be left."""


class InterruptionJudge:
    """Words of all languages that the agent speaks count, whichever is spoken at the moment."""

    def __init__(self, policies: AgentPolicies, languages: Iterable[Language]) -> None:
        phrases = [phrases_of(language) for language in languages]
        policy = policies.interruption
        self._min_words = policy.min_words
        self._always = matcher((*policy.always, *(p for one in phrases for p in one.always_interrupt)))
        self._backchannels = matcher((*policy.backchannels, *(p for one in phrases for p in one.backchannels)))
        self._greetings = matcher(tuple(p for one in phrases for p in (*one.greetings, *one.backchannels)))

    def over_speech(self, text: str, *, more_may_come: bool = False) -> Verdict:
        """The callee speaks while the agent is heard. `hold`: be silent, and see what it will be.

        `more_may_come`: the text is a partial one, and "no" may become "no problem".
        """
        words = normalise_words(text)
        stop = self._first_stop(words)
        if more_may_come and text.rstrip()[-1:].isalnum():
            open_from = self._open_end(words)
            if open_from is not None and (stop is None or stop >= open_from):
                return "hold" if stop is not None or self._min_words == 0 else "ignore"
        if stop is not None:
            return "interrupt"
        if self._backchannels.covers_words(words):
            return "hold" if self._min_words == 0 and not words else "ignore"
        return "interrupt" if len(words) >= self._min_words else "ignore"

    def says_something(self, text: str) -> bool:
        """More than "mhm": enough once the agent is silent, or has not begun."""
        words = normalise_words(text)
        return self._first_stop(words) is not None or not self._backchannels.covers_words(words)

    def _first_stop(self, words: Sequence[str]) -> int | None:
        """Where the first phrase begins that always interrupts; one inside a backchannel ("no problem") does not."""
        harmless = 0
        """Where the backchannels that began so far end; the longest one of two that overlap counts."""
        for start in range(len(words)):
            backchannel_end = self._backchannels.longest(words, start)
            end = self._always.longest(words, start)
            if end > start and end > harmless and end >= backchannel_end:
                return start
            harmless = max(harmless, backchannel_end)
        return None

    def _open_end(self, words: Sequence[str]) -> int | None:
        """Where the last backchannel begins, if it is said in part and nothing but backchannels came before."""
        position = 0
        while position < len(words):
            if self._backchannels.may_follow(words, position):
                return position
            end = self._backchannels.longest(words, position)
            if end == position:
                return None
            position = end
        return None

    def answers(self, text: str, *, question: bool, left_s: float, opening: bool) -> bool:
        """Whether a turn that did not interrupt is to be answered when the agent has finished.

        `question`: the agent's words end in one. `left_s`: what the agent had still to say when the callee was done.
        "Okay" over a statement wants no answer, and "hello?" over the opening is how people pick up the phone.
        """
        chaff = self._greetings if opening else self._backchannels
        return not chaff.covers(text) or (question and left_s <= ANSWERS_WITHIN_S)
