"""A draft of an answer: what the model says while it is not certain that the callee's turn is over.

It keeps events and does nothing with them: it has no way to the playout, the synthesizer, the transcript, the history
or the tools. A reply that takes it over reads it as it would read the model itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from serve_app.clock import Clock
from serve_app.conversation.speculation import estimate_tokens
from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, LanguageModel, TextDelta, ToolCall


def tokens_of(request: ChatRequest, events: list[ChatEvent]) -> int:
    """The tokens of a request and of what was answered: the model's own count, else an estimate."""
    chars = sum(len(message.content) for message in request.messages)
    for event in events:
        if isinstance(event, ChatFinished) and event.prompt_tokens is not None:
            return event.prompt_tokens + (event.completion_tokens or 0)
        if isinstance(event, TextDelta):
            chars += len(event.text)
        elif isinstance(event, ToolCall):
            chars += len(event.arguments_json)
    return estimate_tokens(chars)


class Draft:
    """One request, made beforehand."""

    def __init__(self, model: LanguageModel, request: ChatRequest, clock: Clock) -> None:
        self.model = model
        self.request = request
        self.started_at = clock.monotonic()
        self.first_token_at: float | None = None
        self.error: ProviderError | None = None
        self._clock = clock
        self._events: list[ChatEvent] = []
        self._over = False
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        self._task = group.create_task(self._collect(), name="draft")

    async def _collect(self) -> None:
        try:
            # The interface promises that leaving early closes the HTTP stream.
            async with aclosing(cast("AsyncGenerator[ChatEvent, None]", self.model.stream(self.request))) as stream:
                async for event in stream:
                    if self.first_token_at is None:
                        self.first_token_at = self._clock.monotonic()
                    self._events.append(event)
                    self._more.set()
        except ProviderError as error:
            self.error = error
        finally:
            self._over = True
            self._more.set()

    def drop(self) -> None:
        """Close the stream, now."""
        if self._task is not None:
            self._task.cancel()

    @property
    def tokens(self) -> int:
        return tokens_of(self.request, self._events)

    def answers(self, request: ChatRequest) -> bool:
        """Whether it was made for the talk as it is: the turn machine vouches for the callee's last words alone."""
        made, wanted = self.request, request
        return (
            made.messages[:-1] == wanted.messages[:-1]
            and made.messages[-1].role == wanted.messages[-1].role
            and made.tools == wanted.tools
        )

    async def events(self) -> AsyncGenerator[ChatEvent, None]:
        """What came, then what comes. Raises ProviderError; leaving it closes the stream."""
        position = 0
        try:
            while True:
                while position < len(self._events):
                    yield self._events[position]
                    position += 1
                if self._over:
                    break
                self._more.clear()
                await self._more.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.drop()
