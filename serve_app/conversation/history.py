"""What was said and heard, as the language model is to see it."""

from __future__ import annotations

from typing import Literal

from serve_app.conversation.agent import AgentDefinition
from serve_app.providers.base import ChatRequest, Message


class History:
    """The talk so far. The agent's side holds what the callee heard: what was cut off was not said."""

    def __init__(self, agent: AgentDefinition) -> None:
        self._agent = agent
        self._system = Message("system", agent.instructions())
        self._messages: list[Message] = []

    def add_callee(self, text: str) -> None:
        """A callee's turn. Two in a row (the reply between was cancelled before a sound) become one message."""
        self._append("user", text)

    def add_agent(self, heard_text: str) -> None:
        self._append("assistant", heard_text)

    def _append(self, role: Literal["user", "assistant"], text: str) -> None:
        text = text.strip()
        if not text:
            return
        if self._messages and self._messages[-1].role == role:
            text = f"{self._messages.pop().content} {text}"
        self._messages.append(Message(role, text))

    def request(self, call_id: str) -> ChatRequest:
        """The request for the next reply."""
        return ChatRequest(
            call_id=call_id,
            messages=(self._system, *self._messages),
            max_tokens=self._agent.limits.max_reply_tokens,
        )
