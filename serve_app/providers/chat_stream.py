"""Chat completions through an OpenAI-shaped SDK: one request, its stream folded into events, its failures named.

Groq's SDK and OpenAI's are made by one generator: same calls, same chunks, same exceptions under other names. What
differs is a `Dialect`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, Message, TextDelta, ToolCall
from serve_app.providers.errors import is_retryable, status_error

# Leaving a stream must not hold a barge-in back.
_CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Dialect:
    """What the two SDKs do not share. Exceptions are tuples, as `except` takes them."""

    name: str
    status_errors: tuple[type[Exception], ...]
    """With `.status_code`, `.message`."""
    api_errors: tuple[type[Exception], ...]
    """Everything else that the SDK raises: mid-stream error events, connection errors, its own timeouts."""
    transport_errors: tuple[type[Exception], ...]
    """What its HTTP library raises through the SDK, e.g. for a chunked body that is cut."""
    limit_parameter: str
    """The parameter's name."""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Reply:
    """What has come so far."""

    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    spoke: bool = False


class ChatStreamer:
    """Streams completions of one SDK client. Never retries: the SDK would sleep `retry-after` inside the await."""

    def __init__(
        self, client: Any, dialect: Dialect, *, model: str, temperature: float | None, token_timeout_s: float
    ) -> None:
        self._client = client
        self._dialect = dialect
        self._model = model
        self._temperature = temperature
        self._token_timeout_s = token_timeout_s

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        """Events ending in exactly one ChatFinished. Raises ProviderError; closes the HTTP stream in every case."""
        reply = _Reply()
        response: Any = None
        # The first and each following token must come in time. Reasoning is no token: nobody hears it.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._token_timeout_s
        try:
            with self._named_errors(reply):
                async with asyncio.timeout_at(deadline):
                    response = await self._client.chat.completions.create(**self._parameters(request))
            chunks = response.__aiter__()
            while True:
                chunk = None  # an end that comes late or broken, after the answer is complete, is an end
                with self._named_errors(reply):
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks, None)
                if chunk is None:
                    break
                text = self._fold(chunk, reply)
                if text:
                    deadline = loop.time() + self._token_timeout_s
                    yield TextDelta(text)
        finally:
            if response is not None:
                # groq's iterator leaves the connection open on an early exit; and what is half read must be dropped.
                with contextlib.suppress(TimeoutError, OSError, *self._dialect.transport_errors):
                    async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                        await response.close()
        for event in self._end(reply):
            yield event

    def _parameters(self, request: ChatRequest) -> dict[str, Any]:
        temperature = self._temperature if request.temperature is None else request.temperature
        optional = {
            "temperature": temperature,
            self._dialect.limit_parameter: request.max_tokens,
            "tools": list(request.tools) or None,
        }
        return {
            "model": self._model,
            "messages": [_message(message) for message in request.messages],
            "stream": True,
            **self._dialect.parameters,
            **{name: value for name, value in optional.items() if value is not None},
        }

    def _fold(self, chunk: Any, reply: _Reply) -> str:
        """Take one chunk in; the text that it adds."""
        groq = getattr(chunk, "x_groq", None)
        if getattr(groq, "error", None):
            # An error inside a chunk raises nothing in the SDK.
            raise self._error(f"the server reported: {getattr(groq, 'error', None)}")
        usage = getattr(groq, "usage", None) or getattr(chunk, "usage", None)
        if usage is not None:
            reply.prompt_tokens = getattr(usage, "prompt_tokens", None)
            reply.completion_tokens = getattr(usage, "completion_tokens", None)
        text = ""
        # A usage chunk has no choices, and an event of an unknown kind no such field.
        for choice in getattr(chunk, "choices", None) or ():
            delta = getattr(choice, "delta", None)
            text += getattr(delta, "content", None) or ""
            for call in getattr(delta, "tool_calls", None) or ():
                _accumulate(reply.calls, call)
            reply.finish_reason = getattr(choice, "finish_reason", None) or reply.finish_reason
        reply.spoke = reply.spoke or bool(text.strip())
        return text

    def _end(self, reply: _Reply) -> list[ChatEvent]:
        if reply.finish_reason is None:
            # A body that ends early ends the SDK's iteration without a word.
            raise self._error("the stream ended before its terminal marker")
        calls = [ToolCall(call["id"], call["name"], call["arguments"]) for _, call in sorted(reply.calls.items())]
        if not calls and not reply.spoke:
            raise self._error(
                f"the reply is empty (finish_reason {reply.finish_reason}); a reasoning model may need more tokens"
            )
        return [*calls, ChatFinished(reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)]

    @contextlib.contextmanager
    def _named_errors(self, reply: _Reply) -> Iterator[None]:
        """Everything that the SDK and its HTTP library raise, as ProviderError."""
        dialect = self._dialect
        broken: tuple[type[Exception], ...] = (*dialect.transport_errors, OSError, json.JSONDecodeError)
        try:
            yield
        except dialect.status_errors as error:
            raise self._status_error(error) from error
        except TimeoutError as error:
            if reply.finish_reason is None:
                raise self._error(f"no token within {self._token_timeout_s:g} s") from error
        except dialect.api_errors as error:
            # A mid-stream error event carries its status in the body, if anywhere.
            body = getattr(error, "body", None)
            status = body.get("status_code") if isinstance(body, dict) else None
            raise self._error(str(error), status if isinstance(status, int) else None) from error
        except broken as error:
            if reply.finish_reason is None:
                raise self._error(f"the stream was cut: {type(error).__name__}: {error}") from error

    def _status_error(self, error: Any) -> ProviderError:
        status = int(error.status_code)
        remedy = ""
        if status == 404:
            remedy = f"model {self._model!r} is not served (retired?); set providers.{self._dialect.name}.model"
        return status_error("llm", self._dialect.name, status, str(error.message), remedy=remedy)

    def _error(self, message: str, status: int | None = None) -> ProviderError:
        return ProviderError("llm", self._dialect.name, message, retryable=is_retryable(status), status=status)


def _message(message: Message) -> dict[str, Any]:
    document: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document


def _accumulate(calls: dict[int, dict[str, str]], delta: Any) -> None:
    """Tool calls come whole or in pieces; `index` says which call a piece belongs to."""
    call = calls.setdefault(getattr(delta, "index", None) or 0, {"id": "", "name": "", "arguments": ""})
    call["id"] = getattr(delta, "id", None) or call["id"]
    function = getattr(delta, "function", None)
    call["name"] += getattr(function, "name", None) or ""
    call["arguments"] += getattr(function, "arguments", None) or ""
