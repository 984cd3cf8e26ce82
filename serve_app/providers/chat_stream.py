"""Chat completions through an OpenAI-shaped SDK: one request, its stream folded into events, its failures named.

Groq's SDK and OpenAI's are made by one generator: same calls, same chunks, same exceptions under other names. What
differs is a `Dialect`. The SDK makes the request, reads the events and raises the errors; its chunks are asked for as
plain JSON (`cast_to=object`), since a validated model per token costs more than all the rest of a token's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, Message, TextDelta, ToolCall
from serve_app.providers.errors import is_retryable, status_error

# Leaving a stream must not hold a barge-in back.
_CLOSE_TIMEOUT_S = 1.0
_END = object()

KEEP_CONNECTED_S = 30.0
"""How long an idle connection is kept. The SDKs' default of 5 s is shorter than many a turn of the callee: most replies
of a quiet process would begin with a TLS handshake."""


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
    base_path: str
    """Of the API, as the SDK appends it to its base URL."""
    stream_class: Any
    """The SDK's `AsyncStream`, of plain JSON."""
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
        self._used_at = float("-inf")
        """When a connection was last in use."""

    async def warm(self) -> None:
        """Connect, unless a connection is open from before. Never raises: if it fails, the next reply tells."""
        now = asyncio.get_running_loop().time()
        if now - self._used_at < KEEP_CONNECTED_S:
            return
        self._used_at = now
        dialect = self._dialect
        expected = (*dialect.status_errors, *dialect.api_errors, *dialect.transport_errors, OSError, ValueError)
        with contextlib.suppress(*expected):
            async with asyncio.timeout(self._token_timeout_s):
                await self._client.get(f"{dialect.base_path}/models", cast_to=object)

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        """Events ending in exactly one ChatFinished. Raises ProviderError; closes the HTTP stream in every case."""
        reply = _Reply()
        response: Any = None
        body = self._parameters(request)
        dialect = self._dialect
        # The first and each following token must come in time. Reasoning is no token: nobody hears it.
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._token_timeout_s
        try:
            with self._named_errors(reply):
                async with asyncio.timeout_at(deadline):
                    response = await self._client.post(
                        f"{dialect.base_path}/chat/completions",
                        cast_to=object,
                        body=body,
                        stream=True,
                        stream_cls=dialect.stream_class,
                    )
            chunks = response.__aiter__()
            while True:
                chunk = _END  # an end that comes late or broken, after the answer is complete, is an end
                with self._named_errors(reply):
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks, _END)
                if chunk is _END:
                    break
                text = self._fold(chunk, reply)
                if text:
                    deadline = loop.time() + self._token_timeout_s
                    yield TextDelta(text)
        finally:
            self._used_at = loop.time()
            if response is not None:
                # groq's iterator leaves the connection open on an early exit; and what is half read must be dropped.
                with contextlib.suppress(TimeoutError, OSError, *dialect.transport_errors):
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

    def _fold(self, chunk: object, reply: _Reply) -> str:
        """Take one chunk in; the text that it adds. Nothing in it is validated: any field may be missing, or null."""
        if not isinstance(chunk, Mapping):
            return ""
        groq = _mapping(chunk.get("x_groq"))
        if groq.get("error"):
            # An error inside a chunk raises nothing in the SDK.
            raise self._error(f"the server reported: {groq['error']}")
        if usage := _mapping(groq.get("usage") or chunk.get("usage")):
            reply.prompt_tokens = usage.get("prompt_tokens")
            reply.completion_tokens = usage.get("completion_tokens")
        text = ""
        # A usage chunk has no choices, and an event of an unknown kind no such field.
        for choice in map(_mapping, chunk.get("choices") or ()):
            delta = _mapping(choice.get("delta"))
            text += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                _accumulate(reply.calls, _mapping(call))
            reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
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
    if message.tool_calls:
        # A message that only calls tools has no content: some servers refuse an empty text.
        document["content"] = message.content or None
        document["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments_json}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        document["tool_call_id"] = message.tool_call_id
    return document


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _accumulate(calls: dict[int, dict[str, str]], delta: Mapping[str, Any]) -> None:
    """Tool calls come whole or in pieces; `index` says which call a piece belongs to."""
    call = calls.setdefault(delta.get("index") or 0, {"id": "", "name": "", "arguments": ""})
    call["id"] = delta.get("id") or call["id"]
    function = _mapping(delta.get("function"))
    call["name"] += function.get("name") or ""
    call["arguments"] += function.get("arguments") or ""
