"""A language model on virtual time: scripted answers, word by word, and the faults of real ones."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, TextDelta, ToolCall

LlmPlan = Literal[
    "ok",
    "401",
    "429",
    "500",
    "hang",  # no first token, ever
    "half_open",  # the connection is dead, and the client's own deadline tells so
    "slow_drip",  # a word every one and a half seconds
    "stall",  # nothing after half of the answer
    "cut",  # the connection is lost after half of the answer
    "empty",  # an answer without text
]
_RETRYABLE = {"401": False, "429": True, "500": True}
CLIENT_TIMEOUT_S = 4.0
"""How long a client waits for a token by default (`token_timeout_s` of the providers' settings)."""
_DRIP_S = 1.5
_FOREVER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says, or the tool that it calls. Delays of None: the model's own."""

    text: str = ""
    tool: str | None = None
    arguments: Mapping[str, object] = field(default_factory=dict)
    first_token_s: float | None = None


@dataclass
class ScriptedModel:
    """`plans`: what becomes of the next requests. `answers`: by the number of the request, unless `script` tells."""

    plans: list[LlmPlan] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    script: Callable[[ChatRequest], Answer] | None = None
    first_token_s: float = 0.2
    token_s: float = 0.01
    name: str = "scripted"
    requests: list[ChatRequest] = field(default_factory=list)
    streams_open: int = 0

    def fail(self, plan: LlmPlan, times: int) -> None:
        """The next `times` requests."""
        self.plans += [plan] * times

    def _answer(self, request: ChatRequest, number: int) -> Answer:
        if self.script is not None:
            return self.script(request)
        return Answer(self.answers[number] if number < len(self.answers) else f"This is answer number {number + 1}.")

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        number = len(self.requests)
        self.requests.append(request)
        plan = self.plans.pop(0) if self.plans else "ok"
        answer = self._answer(request, number)
        self.streams_open += 1
        try:
            await asyncio.sleep(self.first_token_s if answer.first_token_s is None else answer.first_token_s)
            if plan in _RETRYABLE:
                raise ProviderError("llm", self.name, plan, retryable=_RETRYABLE[plan], status=int(plan))
            if plan == "half_open":
                await asyncio.sleep(CLIENT_TIMEOUT_S)
                raise ProviderError("llm", self.name, "no token in time", retryable=True)
            if plan == "hang":
                await asyncio.sleep(_FOREVER_S)
            if plan == "empty":
                yield ChatFinished("length")
                return
            if answer.tool is not None:
                yield ToolCall(f"call_{number}", answer.tool, json.dumps(answer.arguments))
                if not answer.text:
                    yield ChatFinished("tool_calls")
                    return
            words = answer.text.split(" ")
            for i, word in enumerate(words):
                if i == len(words) // 2 and plan == "cut":
                    raise ProviderError("llm", self.name, "cut", retryable=True)
                if i == len(words) // 2 and plan == "stall":
                    await asyncio.sleep(_FOREVER_S)
                yield TextDelta(word if i == 0 else f" {word}")
                await asyncio.sleep(_DRIP_S if plan == "slow_drip" else self.token_s)
            yield ChatFinished("stop")
        finally:
            self.streams_open -= 1

    async def warm(self) -> None: ...

    async def aclose(self) -> None: ...
