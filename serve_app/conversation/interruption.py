"""What counts as an interruption of the agent: one small object per call, asked with the words recognised so far."""

from __future__ import annotations

from collections.abc import Iterable
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

    def over_speech(self, text: str) -> Verdict:
        """The callee speaks while the agent is heard. `hold`: be silent, and see whether words come."""
        if self._always.anywhere(text):
            return "interrupt"
        if self._backchannels.covers(text):
            return "hold" if self._min_words == 0 and not text.strip() else "ignore"
        return "interrupt" if len(normalise_words(text)) >= self._min_words else "ignore"

    def says_something(self, text: str) -> bool:
        """More than "mhm": enough once the agent is silent, or has not begun."""
        return self._always.anywhere(text) or not self._backchannels.covers(text)

    def answers(self, text: str, *, question: bool, left_s: float, opening: bool) -> bool:
        """Whether a turn that did not interrupt is to be answered when the agent has finished.

        `question`: the agent's words end in one. `left_s`: what the agent had still to say when the callee was done.
        "Okay" over a statement wants no answer, and "hello?" over the opening is how people pick up the phone.
        """
        chaff = self._greetings if opening else self._backchannels
        return not chaff.covers(text) or (question and left_s <= ANSWERS_WITHIN_S)
