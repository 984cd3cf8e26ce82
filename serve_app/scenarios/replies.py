"""The model's part of a scenario: what it answers to what the callee said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import normalise_words
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.document import Scenario
from serve_app.scenarios.record import CallRecord
from serve_app.scenarios.scripted_llm import Answer
from serve_app.scenarios.steps import BargeIn, Reply, Say

UNSCRIPTED = "Of course."
"""The answer where the scenario tells none."""


class ScenarioScript:
    """By the text, not by the number of requests: a draft that is dropped must not use an answer up."""

    def __init__(self, scenario: Scenario, record: CallRecord) -> None:
        self._scenario = scenario
        self._record = record
        self._answering: int | None = None
        self._tools_called: Counter[int] = Counter()

    def __call__(self, request: ChatRequest) -> Answer:
        asked = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
        number = self._answering = self._step(normalise_words(asked))
        if number is None:
            return Answer(UNSCRIPTED)
        # After a tool call the model is asked again, for the next of the replies.
        replies, called = replies_of(self._scenario.steps[number]), self._tools_called[number]
        reply = replies[called] if called < len(replies) else Reply(text=UNSCRIPTED)
        first_token_s = None if reply.first_token_ms is None else reply.first_token_ms / 1000
        if reply.tool is None:
            return Answer(reply.text, first_token_s=first_token_s)
        return Answer(reply.text, reply.tool.name, reply.tool.arguments, first_token_s)

    def turn(self, event: t.TurnEvent, commands: Sequence[t.TurnCommand]) -> None:
        """Told of the turn machine's events."""
        if isinstance(event, t.ToolCalled) and self._answering is not None:
            self._tools_called[self._answering] += 1

    def _step(self, words: list[str]) -> int | None:
        """The latest step that said this. Texts without an answer in between come as one: the last words count."""
        for times in reversed(self._record.steps):
            said = normalise_words(said_in(self._scenario.steps[times.number]))
            if said and words[-len(said) :] == said:
                return times.number
        return None


def said_in(step: object) -> str:
    """What the callee says in a step."""
    if isinstance(step, Say):
        return step.text
    return step.barge_in.text if isinstance(step, BargeIn) else ""


def replies_of(step: object) -> tuple[Reply, ...]:
    return step.reply if isinstance(step, Say | BargeIn) else ()
