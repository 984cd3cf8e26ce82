"""One answer: a language model's stream into speech and tool calls, through at most one model that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import cast

from serve_app.clock import Clock
from serve_app.conversation.drafts import Draft, tokens_of
from serve_app.conversation.latency import LatencyProbe
from serve_app.conversation.sentences import SentenceSplitter
from serve_app.conversation.speculation import Speculation
from serve_app.conversation.speech import Speech
from serve_app.conversation.tools import opt_out_reason
from serve_app.conversation.turn_types import ReplySentence, ToolCalled, TurnEvent
from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, LanguageModel, Message, TextDelta, ToolCall
from serve_app.providers.ranking import Ranking

_GO_ON = Message(
    "system",
    "Your answer was cut off after the words above. Go on exactly there, in the same language: do not repeat anything, "
    "and do not mention the interruption.",
)


class Reply:
    """Reads a model, feeds a `Speech`."""

    def __init__(
        self,
        generation: int,
        request: ChatRequest,
        speech: Speech,
        *,
        models: Ranking[LanguageModel],
        speculation: Speculation,
        probe: LatencyProbe,
        clock: Clock,
        on_piece: Callable[[str], None],
        emit: Callable[[TurnEvent], None],
        on_failed: Callable[[ProviderError], None],
    ) -> None:
        """`on_piece`: told of text before the speech is. `on_failed`: the model got no further, and either another one
        can be asked (`fail_over`), or nothing was said yet; else what was said is spoken first (`error`).
        """
        self.speech = speech
        self.error: ProviderError | None = None
        """Why the text is not complete."""
        self._generation = generation
        self._request = request
        self._models = models
        self._speculation = speculation
        self._probe = probe
        self._clock = clock
        self._on_piece = on_piece
        self._emit = emit
        self._on_failed = on_failed
        self._asked: list[LanguageModel] = []
        self._said = ""
        self._complete = False
        self._draft: Draft | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup, draft: Draft | None) -> None:
        """Begin; with a draft, go on from where it is."""
        self.speech.start(group)
        if draft is None:
            self._ask(group, self._request)
            return
        self._draft = draft
        self._probe.speculative = True
        self._asked.append(draft.model)
        self._read(group, draft.model, draft.events())

    @property
    def complete(self) -> bool:
        """The model is through: no more text follows."""
        return self._complete

    @property
    def has_alternative(self) -> bool:
        return self._following() is not None

    def _following(self) -> LanguageModel | None:
        # Once: a third one would come too late for the callee.
        return self._models.best(self._clock.monotonic(), without=self._asked) if len(self._asked) < 2 else None

    def fail_over(self, group: asyncio.TaskGroup) -> bool:
        """Drop the model that is asked, and ask the next one. False: there is none, or the text is complete."""
        if self._complete or not self.has_alternative:
            return False
        self.cancel_model()
        self._models.failed(self._asked[-1], self._clock.monotonic())
        request = self._request
        if self._said.strip():
            request = replace(request, messages=(*request.messages, Message("assistant", self._said), _GO_ON))
        self._ask(group, request)
        return True

    def cancel_model(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._draft is not None:
            # A task that was cancelled before its first step has not closed it.
            self._draft.drop()

    def cancel(self) -> None:
        self.cancel_model()
        self.speech.cancel()

    def _ask(self, group: asyncio.TaskGroup, request: ChatRequest) -> None:
        if (model := self._following()) is not None:
            self._asked.append(model)
            # The interface promises that leaving early closes the HTTP stream.
            self._read(group, model, cast("AsyncGenerator[ChatEvent, None]", model.stream(request)))

    def _read(self, group: asyncio.TaskGroup, model: LanguageModel, events: AsyncGenerator[ChatEvent, None]) -> None:
        self._task = group.create_task(self._follow(model, events), name=f"reply-{self._generation}")

    async def _follow(self, model: LanguageModel, events: AsyncGenerator[ChatEvent, None]) -> None:
        try:
            async with aclosing(events):
                heard = await self._collect(events)
        except ProviderError as error:
            self._models.failed(model, self._clock.monotonic())
            self._fail(error)
            return
        self._speculation.answered(tokens_of(self._request, heard))
        try:
            calls = self._finish(model, heard)
        except ProviderError as error:
            # The model answered, badly: no reason for other calls to avoid it.
            self._fail(error)
            return
        self._complete = True
        for call in calls:
            self._emit(call)
        self.speech.complete()

    async def _collect(self, events: AsyncGenerator[ChatEvent, None]) -> list[ChatEvent]:
        """All events; text is said as it comes."""
        splitter = SentenceSplitter(self.speech.language)
        heard: list[ChatEvent] = []
        async for event in events:
            heard.append(event)
            if self._probe.first_token_at is None:
                self._first_token()
            if isinstance(event, TextDelta):
                for piece in splitter.feed(event.text):
                    self._say(piece)
            elif isinstance(event, ChatFinished):
                for piece in splitter.flush():
                    self._say(piece)
        return heard

    def _first_token(self) -> None:
        now = self._probe.first_token_at = self._clock.monotonic()
        draft, ended_at = self._draft, self._probe.turn_ended_at
        if draft is not None and draft.first_token_at is not None and ended_at is not None:
            # Without the draft the same wait would have begun with the end of the turn.
            wait_s = draft.first_token_at - draft.started_at
            self._speculation.saved(max(0.0, ended_at + wait_s - now))

    def _say(self, piece: str) -> None:
        self._said += piece
        self._on_piece(piece)
        self.speech.add(piece)
        self._emit(ReplySentence(self._generation, piece))

    def _finish(self, model: LanguageModel, heard: list[ChatEvent]) -> list[ToolCalled]:
        """The tool calls of a complete answer. Raises ProviderError for one that cannot be used."""
        if not heard or not isinstance(heard[-1], ChatFinished):
            raise ProviderError("llm", model.name, "the answer ended without its end mark", retryable=True)
        asked = [event for event in heard if isinstance(event, ToolCall)]
        for call in asked:
            if (reason := opt_out_reason(call)) is not None:
                # Whatever else the model wants, and however badly it says so.
                return [ToolCalled(self._generation, call.name, {"reason": reason})]
        calls = [ToolCalled(self._generation, call.name, _arguments(model, call)) for call in asked]
        if not calls and not self._said.strip():
            raise ProviderError("llm", model.name, "the answer has no text", retryable=True)
        return calls

    def _fail(self, error: ProviderError) -> None:
        if self.has_alternative:
            self._on_failed(error)
            return
        self.error, self._complete = error, True
        if self._said:
            # What the model said so far is still spoken.
            self.speech.complete()
        else:
            self.speech.cancel()
            self._on_failed(error)


def _arguments(model: LanguageModel, call: ToolCall) -> Mapping[str, object]:
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except ValueError as error:
        message = f"the arguments of the tool {call.name} are not JSON"
        raise ProviderError("llm", model.name, message, retryable=True) from error
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        message = f"the arguments of the tool {call.name} are no object"
        raise ProviderError("llm", model.name, message, retryable=True)
    return arguments
