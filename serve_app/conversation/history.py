"""What was said and heard, as the language model is to see it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.phrases import Language
from serve_app.conversation.speculation import estimate_tokens
from serve_app.conversation.tools import Tool, tools_for
from serve_app.providers.base import ChatRequest, Message, ToolCall

TOKENS_PER_MESSAGE = 4
KEPT_MESSAGES = 12
"""The last messages stay, whatever their length: without them the model would not know what is talked about."""
FILLED_AFTER_CUT = 0.75
"""A history that is too long is cut to this share of its limit: if one message left it with each turn, the beginning of
the request would change each time, and the provider could not reuse what it computed for it."""


class History:
    """The talk so far. The agent's side holds what the callee heard: what was cut off was not said."""

    def __init__(self, agent: AgentDefinition, tools: Sequence[Tool] = ()) -> None:
        """`tools`: what this call offers besides what every call does."""
        self._agent = agent
        self._own_tools = tuple(tools)
        self._languages: tuple[Language, ...] = (agent.language, *agent.languages)
        self._messages: list[Message] = []
        self._calls = 0
        self.switch_language(agent.language)

    def switch_language(self, language: Language) -> None:
        """From now on the model is told to speak this language."""
        self._system = Message("system", self._agent.instructions(language))
        self._tools = (*tools_for(language, self._languages), *self._own_tools)

    def add_callee(self, text: str) -> None:
        """A callee's turn. Two in a row (the reply between was cancelled before a sound) become one message."""
        self._messages = self._with("user", text)

    def add_agent(self, heard_text: str) -> None:
        self._messages = self._with("assistant", heard_text)

    def add_tool_call(self, name: str, arguments: Mapping[str, object], result: str) -> None:
        """The model called a tool; `result` is what it is told. Both messages or none: providers refuse one alone."""
        self._calls += 1
        call = ToolCall(f"call_{self._calls}", name, json.dumps(dict(arguments), ensure_ascii=False))
        pair = Message("assistant", "", tool_calls=(call,)), Message("tool", result, call.id)
        self._messages = self._fitted([*self._messages, *pair])

    def request(self, call_id: str) -> ChatRequest:
        """The request for the next reply."""
        return self._request(call_id, self._messages)

    def draft_request(self, call_id: str, user_text: str) -> ChatRequest:
        """What `request` would be if the callee had said this. Nothing is kept of it."""
        return self._request(call_id, self._with("user", user_text))

    def _request(self, call_id: str, messages: Sequence[Message]) -> ChatRequest:
        return ChatRequest(
            call_id=call_id,
            messages=(self._system, *messages),
            tools=self._tools,
            max_tokens=self._agent.limits.max_reply_tokens,
        )

    def _with(self, role: Literal["user", "assistant"], text: str) -> list[Message]:
        text = text.strip()
        messages = list(self._messages)
        if not text:
            return messages
        if messages and messages[-1].role == role and not messages[-1].tool_calls:
            text = f"{messages.pop().content} {text}"
        return self._fitted([*messages, Message(role, text)])

    def _fitted(self, messages: list[Message]) -> list[Message]:
        """Without the oldest ones, if they are too many; never beginning with the result of a call that is gone."""
        limit = self._agent.limits.max_history_tokens
        sizes = [_tokens(message) for message in messages]
        total = sum(sizes)
        if total <= limit:
            return messages
        first = 0
        while total > limit * FILLED_AFTER_CUT and len(messages) - first > KEPT_MESSAGES:
            total -= sizes[first]
            first += 1
        while first < len(messages) and messages[first].role == "tool":
            first += 1
        return messages[first:]


def _tokens(message: Message) -> int:
    chars = len(message.content) + sum(len(call.name) + len(call.arguments_json) for call in message.tool_calls)
    return TOKENS_PER_MESSAGE + estimate_tokens(chars)
