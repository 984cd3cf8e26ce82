"""Function calling of the chat stand-in: what a request may hold, and a call as stream deltas."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_MOST_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PIECE_CHARS = 8


class RefusedError(Exception):
    """What the providers answer with HTTP 400; the message is theirs in sense."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a function by the model."""

    name: str
    arguments: dict[str, Any]
    id: str = field(default_factory=lambda: f"call_{uuid.uuid4().hex[:24]}")

    def document(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": json.dumps(self.arguments, ensure_ascii=False)}
        return {"id": self.id, "type": "function", "function": function}

    def deltas(self, *, whole: bool) -> list[dict[str, Any]]:
        """Groq sends a call whole; OpenAI the name first, then the arguments bit by bit."""
        document = self.document()
        if whole:
            return [{"tool_calls": [{"index": 0, **document}]}]
        arguments = document["function"]["arguments"]
        head = {**document, "function": {"name": self.name, "arguments": ""}}
        pieces = [arguments[at : at + _PIECE_CHARS] for at in range(0, len(arguments), _PIECE_CHARS)]
        return [
            {"tool_calls": [{"index": 0, **head}]},
            *({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces),
        ]


def check_tools(tools: Sequence[dict[str, Any]]) -> None:
    """Raises RefusedError for what no provider takes as a tool."""
    if len(tools) > _MOST_TOOLS:
        raise RefusedError(f"'tools': at most {_MOST_TOOLS}")
    for index, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise RefusedError(f"'tools.{index}': only functions")
        if not _NAME.fullmatch(str(function.get("name", ""))):
            raise RefusedError(f"'tools.{index}.function.name' does not match '^[a-zA-Z0-9_-]{{1,64}}$'")
        if not isinstance(function.get("parameters", {}), dict):
            raise RefusedError(f"'tools.{index}.function.parameters': not a JSON schema")


def check_messages(messages: Sequence[dict[str, Any]]) -> None:
    """Raises RefusedError unless each call of a tool is followed by its result, and each result answers a call."""
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if role == "tool":
            identity = message.get("tool_call_id")
            if identity not in open_calls:
                raise RefusedError(f"'messages.{index}': a tool message must follow the tool_calls that it answers")
            open_calls.remove(str(identity))
            continue
        if open_calls:
            raise RefusedError(f"'messages.{index}': no tool message answered the tool_call_ids {open_calls}")
        if role not in ("system", "developer", "user", "assistant"):
            raise RefusedError(f"'messages.{index}.role': no role {role!r}")
        calls = message.get("tool_calls") or []
        if message.get("content") is None and not calls:
            raise RefusedError(f"'messages.{index}.content': missing")
        open_calls = [str(call.get("id")) for call in calls]
    if open_calls:
        raise RefusedError(f"'messages': no tool message answered the tool_call_ids {open_calls}")
