"""Faults that tests and load runs switch on while the stand-ins run."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Literal, get_args

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Provider = Literal["deepgram", "llm", "cartesia"]

# Before an answer starts.
RequestFault = Literal["unauthorized", "rate_limited", "server_error", "hang", "disconnect"]
# While a stream runs, after `after` messages (deepgram: quarter seconds of audio).
StreamFault = Literal[
    "cut",  # the TCP connection is aborted
    "hang_mid_stream",  # nothing more is read or written
    "silent",  # pings are answered, messages are not sent
    "close",  # a proper close with code 1011 (sockets), or an end without a terminal marker (SSE, chunked)
    "early_eof",  # an end without a terminal marker, the body delimited by the end of the connection (SSE)
    "error_event",  # the provider's own error message mid-stream
    "embedded_error",  # x_groq.error inside a chunk (SSE)
    "error_without_context",  # an error message that names no context (cartesia)
    "unknown_message",  # a message of a type that the SDK does not know; the stream goes on
    "odd_chunks",  # audio in chunks of an odd number of bytes; the stream goes on
    "wrong_finish",  # finish_reason "length" without any text (SSE)
]
REQUEST_FAULTS: frozenset[str] = frozenset(get_args(RequestFault))
_STREAM_FAULTS: dict[str, frozenset[str]] = {
    "deepgram": frozenset({"cut", "hang_mid_stream", "silent", "close", "error_event", "unknown_message"}),
    "llm": frozenset(
        {"cut", "hang_mid_stream", "close", "early_eof", "error_event", "embedded_error", "unknown_message"}
        | {"wrong_finish"}
    ),
    "cartesia": frozenset(
        {"cut", "hang_mid_stream", "silent", "close", "error_event", "error_without_context", "unknown_message"}
        | {"odd_chunks"}
    ),
}


class Fault(BaseModel):
    """One fault, used up after `count` requests (or streams)."""

    model_config = ConfigDict(extra="forbid")

    provider: Provider
    kind: RequestFault | StreamFault
    count: int = Field(1, ge=1)
    after: int = Field(0, ge=0, description="messages of the stream that still arrive before the fault")
    retry_after_s: int = Field(1, ge=0, description="of rate_limited")
    call_id: str | None = Field(None, description="deepgram only: the tag of the stream")
    containing: str | None = Field(
        None,
        min_length=1,
        description="llm and cartesia: only a request or stream with this text in its messages, or in what it speaks",
    )

    @model_validator(mode="after")
    def _provider_can(self) -> Fault:
        if self.containing is not None and self.provider == "deepgram":
            raise ValueError("a stream of deepgram has no text; name its call by call_id")
        if self.containing is not None and self.provider == "cartesia" and self.kind in REQUEST_FAULTS:
            raise ValueError(f"cartesia fails with {self.kind!r} before a text is there; leave out containing")
        allowed = REQUEST_FAULTS | _STREAM_FAULTS[self.provider]
        if self.kind not in allowed:
            raise ValueError(f"{self.provider} has no fault {self.kind!r}; it has {', '.join(sorted(allowed))}")
        return self


class FaultBook:
    """The faults that are switched on."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    @property
    def active(self) -> list[Fault]:
        return list(self._faults)

    def take_request(self, provider: Provider, *, text: str = "") -> Fault | None:
        """The fault that hits this request, counted down. `text`: what the request says."""
        return self._take(provider, call_id=None, text=text, request=True)

    def take_stream(self, provider: Provider, call_id: str | None = None, *, text: str = "") -> Fault | None:
        """The fault that hits the stream which now starts, counted down. `text`: what it answers, or speaks."""
        return self._take(provider, call_id=call_id, text=text, request=False)

    def _take(self, provider: Provider, *, call_id: str | None, text: str, request: bool) -> Fault | None:
        for fault in self._faults:
            if fault.provider != provider or (fault.kind in REQUEST_FAULTS) is not request:
                continue
            if fault.call_id is not None and fault.call_id != call_id:
                continue
            if fault.containing is not None and fault.containing not in text:
                continue
            fault.count -= 1
            if fault.count == 0:
                self._faults.remove(fault)
            return fault
        return None


FAULTS: web.AppKey[FaultBook] = web.AppKey("faults", FaultBook)


async def post_fault(request: web.Request) -> web.Response:
    """`POST /sim/faults`: switch one fault on."""
    try:
        fault = Fault.model_validate_json(await request.read())
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        return web.json_response({"error": problems}, status=422)
    request.app[FAULTS].add(fault)
    return web.json_response(fault.model_dump(), status=201)


async def get_faults(request: web.Request) -> web.Response:
    return web.json_response([fault.model_dump() for fault in request.app[FAULTS].active])


async def delete_faults(request: web.Request) -> web.Response:
    """`DELETE /sim/faults`: switch all faults off."""
    request.app[FAULTS].clear()
    return web.Response(status=204)


def abort(request: web.BaseRequest) -> None:
    """Cut the TCP connection without a word: what a crashed server or a dropped route looks like."""
    # uvloop's transports are no subclasses of asyncio's.
    transport: Any = request.transport
    if transport is not None:
        transport.abort()


async def hang(request: web.BaseRequest) -> None:
    """Neither read nor write until the other side gives up (at most ten minutes)."""
    transport = request.transport
    if transport is None:
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(600):
            while not transport.is_closing():  # noqa: ASYNC110 - the server tells no handler of a lost connection
                await asyncio.sleep(0.05)
