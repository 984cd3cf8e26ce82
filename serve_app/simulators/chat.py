"""Groq stand-in, and any OpenAI-compatible server: chat completions (streamed and whole) and the list of models."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.simulators import brain
from serve_app.simulators.chat_tools import Call, RefusedError, check_messages, check_tools
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, Fault, abort, hang
from serve_app.simulators.latency import Delays
from serve_app.simulators.timings import TIMINGS, ReplyNote

_REASONING = "The caller asks something; the facts should hold the answer."
_RECENT_REQUESTS = 200
_MARK = "@@"


class _ChatBody(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool = False
    n: int = Field(1, le=1)
    temperature: float | None = Field(None, ge=0, le=2)
    max_completion_tokens: int | None = Field(None, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    reasoning_effort: str | None = None
    include_reasoning: bool | None = None
    reasoning_format: str | None = None
    stream_options: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)


@dataclass(slots=True)
class ChatState:
    """What all requests of one application share."""

    config: SimulatorConfig
    delays: Delays
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_RECENT_REQUESTS))
    streams_cut_by_client: int = 0
    minute: deque[float] = field(default_factory=deque)

    def over_limit(self) -> bool:
        """Count one request against the organisation's requests per minute."""
        limit, now = self.config.llm_requests_per_minute, time.monotonic()
        while self.minute and self.minute[0] < now - 60:
            self.minute.popleft()
        if limit is not None and len(self.minute) >= limit:
            return True
        self.minute.append(now)
        return False


CHAT: web.AppKey[ChatState] = web.AppKey("chat", ChatState)


def _error(status: int, message: str, kind: str, code: str | None, **headers: str) -> web.Response:
    body = {"error": {"message": message, "type": kind, "code": code}}
    return web.json_response(body, status=status, headers={**_limit_headers(), **headers})


def _limit_headers() -> dict[str, str]:
    # requests: per day; tokens: per minute.
    return {
        "x-ratelimit-limit-requests": "14400",
        "x-ratelimit-limit-tokens": "250000",
        "x-ratelimit-remaining-requests": "14370",
        "x-ratelimit-remaining-tokens": "249000",
        "x-ratelimit-reset-requests": "2m59.56s",
        "x-ratelimit-reset-tokens": "7.66s",
    }


async def _gate(request: web.Request) -> web.Response | None:
    """The answer to a request that gets no completion: a fault, a bad key, a limit."""
    state = request.app[CHAT]
    fault = request.app[FAULTS].take_request("llm", text=await request.text())
    if fault is not None and fault.kind == "hang":
        await hang(request)
    if fault is not None and fault.kind in ("hang", "disconnect"):
        abort(request)
        return web.Response(status=500)
    if fault is not None and fault.kind == "server_error":
        return _error(500, "Internal Server Error", "internal_server_error", None)
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if (
        (fault is not None and fault.kind == "unauthorized")
        or scheme != "Bearer"
        or key in ("", *state.config.rejected_keys)
    ):
        return _error(401, "Invalid API Key", "invalid_request_error", "invalid_api_key")
    if fault is not None or state.over_limit():
        retry_after = str(fault.retry_after_s) if fault is not None else "10"
        message = "Rate limit reached. Please try again later."
        return _error(429, message, "requests", "rate_limit_exceeded", **{"retry-after": retry_after})
    return None


def _unknown_model(config: SimulatorConfig, model: str) -> web.Response | None:
    if model in config.llm_models:
        return None
    retired = " It has been decommissioned." if model in config.llm_retired_models else ""
    message = f"The model `{model}` does not exist or you do not have access to it.{retired}"
    return _error(404, message, "invalid_request_error", "model_not_found")


async def completions(request: web.Request) -> web.StreamResponse:
    """`POST .../chat/completions`."""
    state = request.app[CHAT]
    refused = await _gate(request)
    if refused is not None:
        return refused
    try:
        body = _ChatBody.model_validate_json(await request.read())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return _error(400, f"'{place}': {first['msg']}", "invalid_request_error", None)
    try:
        check_messages(body.messages)
        check_tools(body.tools)
    except RefusedError as error:
        return _error(400, str(error), "invalid_request_error", None)
    unknown = _unknown_model(state.config, body.model)
    if unknown is not None:
        return unknown
    if body.model.startswith("openai/gpt-oss") and body.reasoning_effort not in (None, "low", "medium", "high"):
        return _error(400, "reasoning_effort must be one of low, medium, high", "invalid_request_error", None)
    if body.include_reasoning is not None and body.reasoning_format is not None:
        message = "reasoning_format and include_reasoning exclude each other"
        return _error(400, message, "invalid_request_error", None)
    state.recent.append(json.loads(await request.read()))
    text, call = _answer(body, state.config)
    reply = _Reply(body, text, call, groq=request.path.startswith("/openai/"))
    if not body.stream:
        await asyncio.sleep(state.delays.draw_s("llm_first_token"))
        return web.json_response(reply.whole(), headers=_limit_headers())
    return await _stream(request, reply, request.app[FAULTS].take_stream("llm", text=await request.text()))


def _answer(body: _ChatBody, config: SimulatorConfig) -> tuple[str, Call | None]:
    """The scripted reply to the last user message, else the agent's own knowledge, or a tool of the request."""
    if config.llm_script or config.llm_default_reply is not None:
        reply = config.llm_script.get(brain.user_text(body.messages).strip(), config.llm_default_reply)
        if reply is not None:
            return reply, None
    wanted = brain.wanted_tool(body.messages, body.tools)
    if wanted is None:
        return brain.answer(body.messages), None
    name, arguments = wanted
    return brain.answer(body.messages) if name in ("end_call", "report_result") else "", Call(name, arguments)


@dataclass(slots=True)
class _Reply:
    """One completion: the text, its chunks, its usage."""

    body: _ChatBody
    text: str
    call: Call | None
    groq: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4()}")
    created: int = field(default_factory=lambda: int(time.time()))

    def tokens(self) -> tuple[list[str], str]:
        """The pieces, cut at the token limit, and the finish reason. Reasoning counts against the limit."""
        pieces = re.findall(r"\s*\S+", self.text)
        complete = "stop" if self.call is None else "tool_calls"
        limit = self.body.max_completion_tokens or self.body.max_tokens
        if limit is None:
            return pieces, complete
        room = max(0, limit - (len(_REASONING.split()) if self.reasons else 0))
        return pieces[:room], complete if len(pieces) <= room else "length"

    @property
    def reasons(self) -> bool:
        return self.body.model.startswith("openai/gpt-oss")

    @property
    def shows_reasoning(self) -> bool:
        return self.reasons and self.body.include_reasoning is not False and self.body.reasoning_format != "hidden"

    def usage(self) -> dict[str, Any]:
        prompt = sum(len(str(message.get("content") or "").split()) for message in self.body.messages)
        completion = len(self.tokens()[0]) + (len(_REASONING.split()) if self.reasons else 0)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        times = {"queue_time": 0.01, "prompt_time": 0.01, "completion_time": 0.05, "total_time": 0.06}
        return {**usage, **times} if self.groq else usage

    def chunk(self, delta: dict[str, Any], finish: str | None = None, **extra: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion.chunk"), "choices": [choice], **extra}

    def usage_chunk(self) -> dict[str, Any]:
        """OpenAI's last chunk under stream_options.include_usage: no choices."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def whole(self) -> dict[str, Any]:
        pieces, finish = self.tokens()
        message: dict[str, Any] = {"role": "assistant", "content": "".join(pieces)}
        if self.call is not None and finish == "tool_calls":
            message |= {"content": "".join(pieces) or None, "tool_calls": [self.call.document()]}
        if self.groq and self.shows_reasoning:
            message["reasoning"] = _REASONING
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def chunks(self) -> list[dict[str, Any]]:
        """All chunks in order, the terminal one last."""
        request_id: dict[str, Any] = {"x_groq": {"id": f"req_{self.id[-12:]}"}} if self.groq else {}
        chunks = [self.chunk({"role": "assistant", "content": ""}, **request_id)]
        if self.groq and self.shows_reasoning:
            chunks += [self.chunk({"reasoning": piece}) for piece in re.findall(r"\s*\S+", _REASONING)]
        pieces, finish = self.tokens()
        chunks += [self.chunk({"content": piece}) for piece in pieces]
        if self.call is not None and finish == "tool_calls":
            chunks += [self.chunk(delta) for delta in self.call.deltas(whole=self.groq)]
        if self.groq:
            final = {"x_groq": {"id": f"req_{self.id[-12:]}", "usage": self.usage()}}
            return [*chunks, self.chunk({}, finish, **final)]
        chunks.append(self.chunk({}, finish))
        if (self.body.stream_options or {}).get("include_usage"):
            chunks.append(self.usage_chunk())
        return chunks

    def encoded(self) -> list[tuple[bytes, bool]]:
        """`chunks` as events, and whether each carries text. Texts alone are encoded: their chunks are else alike."""
        before, after = _event(self.chunk({"content": _MARK})).split(json.dumps(_MARK).encode())
        events = []
        for chunk in self.chunks():
            delta = chunk["choices"][0]["delta"] if chunk["choices"] else {}
            if list(delta) == ["content"]:
                events.append((before + json.dumps(delta["content"]).encode() + after, True))
            else:
                events.append((_event(chunk), False))
        return events

    def _head(self, kind: str) -> dict[str, Any]:
        model = self.body.model
        return {"id": self.id, "object": kind, "created": self.created, "model": model, "system_fingerprint": "fp_sim"}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


async def _stream(request: web.Request, reply: _Reply, fault: Fault | None) -> web.StreamResponse:
    state = request.app[CHAT]
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", **_limit_headers()}
    if fault is not None and fault.kind == "early_eof":
        return await _unframed(request, reply, fault, headers)
    timings = request.app[TIMINGS]
    note = ReplyNote(
        brain.user_text(reply.body.messages), time.monotonic(), state.delays.draw_s("llm_first_token") * 1000
    )
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    due = note.request_at + note.injected_ms / 1000
    wrong = fault is not None and fault.kind == "wrong_finish"
    chunks = [(_event(reply.chunk({}, "length")), False)] if wrong else reply.encoded()
    try:
        joined = b""
        for index, (chunk, speaks) in enumerate(chunks):
            # Against the clock, so that a slow write does not slow the stream down. What is due together leaves
            # together, as it does from a server that is faster than the network.
            wait_s = due - time.monotonic()
            if joined and (wait_s > 0 or fault is not None):
                await response.write(joined)
                joined = b""
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if fault is not None and index == fault.after and await _break(request, response, reply, fault):
                return response
            joined += chunk
            if speaks and note.first_token_at is None:
                await response.write(joined)
                joined = b""
                note.first_token_at = time.monotonic()
                timings.replies.append(note)
                timings.lateness.add((note.first_token_at - due) * 1000)
            due += state.delays.draw_s("llm_inter_token")
        await response.write(joined + b"data: [DONE]\n\n")
        await response.write_eof()
    except ConnectionError:
        # The client left: a barge-in.
        state.streams_cut_by_client += 1
    return response


async def _break(request: web.Request, response: web.StreamResponse, reply: _Reply, fault: Fault) -> bool:
    """Apply the fault; True when the stream is over."""
    if fault.kind == "unknown_message":
        await response.write(b'event: ping\ndata: {"type":"ping"}\n\n')
        return False
    if fault.kind == "wrong_finish":
        return False
    if fault.kind == "error_event":
        error = {"message": "Internal error", "type": "server_error", "code": None, "status_code": 500}
        await response.write(b"event: error\n" + _event({"error": error}))
        await response.write_eof()
    elif fault.kind == "embedded_error":
        await response.write(_event(reply.chunk({}, x_groq={"id": "req_1", "error": "over capacity"})))
        await response.write_eof()
    elif fault.kind == "close":
        await response.write_eof()
    elif fault.kind == "hang_mid_stream":
        await hang(request)
    else:
        abort(request)
    return True


async def _unframed(request: web.Request, reply: _Reply, fault: Fault, headers: dict[str, str]) -> web.StreamResponse:
    """A body that ends with its connection, early: written by hand, because the server would frame it in chunks."""
    transport: Any = request.transport
    if transport is not None:
        lines = ["HTTP/1.1 200 OK", "Connection: close", *(f"{name}: {value}" for name, value in headers.items())]
        transport.write("\r\n".join([*lines, "", ""]).encode())
        for chunk in reply.chunks()[: fault.after]:
            transport.write(_event(chunk))
        transport.close()
    return web.Response()


async def models(request: web.Request) -> web.Response:
    """`GET .../models`."""
    refused = await _gate(request)
    if refused is not None:
        return refused
    names = request.app[CHAT].config.llm_models
    data = [{"id": name, "object": "model", "created": 1700000000, "owned_by": "simulator"} for name in names]
    return web.json_response({"object": "list", "data": data})


async def model(request: web.Request) -> web.Response:
    """`GET .../models/{name}`."""
    refused = await _gate(request)
    name = request.match_info["name"]
    refused = refused or _unknown_model(request.app[CHAT].config, name)
    document = {"id": name, "object": "model", "created": 1700000000, "owned_by": "simulator"}
    return refused or web.json_response(document)


async def get_requests(request: web.Request) -> web.Response:
    """`GET /sim/llm/requests`: the latest request bodies, and how many streams the client left early."""
    state = request.app[CHAT]
    return web.json_response({"requests": list(state.recent), "streams_cut_by_client": state.streams_cut_by_client})


def add_chat_routes(app: web.Application, config: SimulatorConfig) -> None:
    """The Groq paths (`/openai/v1`) and the plain OpenAI ones (`/v1`)."""
    app[CHAT] = ChatState(config, Delays(config.latency, config.seed + 1))
    for base in ("/openai/v1", "/v1"):
        app.router.add_post(f"{base}/chat/completions", completions)
        app.router.add_get(f"{base}/models", models)
        app.router.add_get(f"{base}/models/{{name:.+}}", model)
    app.router.add_get("/sim/llm/requests", get_requests)
