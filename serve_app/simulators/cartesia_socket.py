"""The `/tts/websocket` of the Cartesia stand-in: contexts, flushes, cancels, expiry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from serve_app.simulators.cartesia import (
    CARTESIA,
    ApiError,
    CartesiaState,
    ContextBody,
    gate,
    paced,
    refuse,
    spoken,
    timestamps,
)
from serve_app.simulators.faults import FAULTS, Fault, abort, hang
from serve_app.simulators.timings import TIMINGS, SpeechNote

# Chunks that were already generated still arrive after a cancel.
_LATE_CHUNKS = 2


@dataclass(slots=True)
class _Context:
    """One context: its inputs are spoken in order, one after the other."""

    first: ContextBody
    inputs: asyncio.Queue[ContextBody] = field(default_factory=lambda: asyncio.Queue(1000))
    spoken_s: float = 0.0
    flushes: int = 0
    cancelled: bool = False


async def tts_websocket(request: web.Request) -> web.StreamResponse:
    """The handshake, then one socket with any number of contexts."""
    state = request.app[CARTESIA]
    try:
        await gate(request)
    except ApiError as error:
        return refuse(error)
    await asyncio.sleep(state.delays.draw_s("tts_connect"))
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    state.sockets += 1
    state.sockets_opened += 1
    try:
        await _Socket(request, socket, state).run()
    finally:
        state.sockets -= 1
    return socket


@dataclass(slots=True)
class _Socket:
    request: web.Request
    socket: web.WebSocketResponse
    state: CartesiaState
    _contexts: dict[str, _Context] = field(default_factory=dict)
    _closed: set[str] = field(default_factory=set)
    _fault: Fault | None = None
    _messages_until_fault: int = 0
    _hung: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            receiver = group.create_task(self._receive(group))
            hung = group.create_task(self._hung.wait())
            await asyncio.wait({receiver, hung}, return_when=asyncio.FIRST_COMPLETED)
            hung.cancel()
            if self._hung.is_set():
                # Without a reader not even pings are answered.
                receiver.cancel()
                await hang(self.request)
            for context in self._contexts.values():
                context.cancelled = True

    async def _receive(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                async with asyncio.timeout(self.state.config.tts_idle_close_s):
                    message = await self.socket.receive()
            except TimeoutError:
                if self._contexts:
                    continue
                await self.socket.close(code=WSCloseCode.OK, message=b"connection idle timeout")
                return
            if message.type is not WSMsgType.TEXT:
                return
            await self._request(message.data, group)

    async def _request(self, text: str, group: asyncio.TaskGroup) -> None:
        context_id: str | None = None
        try:
            document = json.loads(text)
            context_id = document.get("context_id")
            if document.get("cancel"):
                self._cancel(str(context_id))
                return
            body = ContextBody.model_validate(document)
            self.state.check(body)
            self._accept(body, group)
        except ApiError as error:
            await self._error(context_id, error)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            await self._error(context_id, ApiError(400, "invalid_request", f"{place}: {first['msg']}"))
        except (json.JSONDecodeError, AttributeError):
            await self._error(None, ApiError(400, "invalid_request", "messages must be JSON objects"))

    def _accept(self, body: ContextBody, group: asyncio.TaskGroup) -> None:
        context = self._contexts.get(body.context_id)
        if context is None:
            if body.context_id in self._closed:
                raise ApiError(400, "context_closed", f"context {body.context_id} has ended and cannot be used again")
            self.state.acquire()
            context = self._contexts[body.context_id] = _Context(body)
            context.inputs.put_nowait(body)
            group.create_task(self._speak(context))
            return
        if body.constant_fields != context.first.constant_fields:
            raise ApiError(400, "invalid_request", "model, voice, format and language are fixed within a context")
        context.inputs.put_nowait(body)

    def _cancel(self, context_id: str) -> None:
        context = self._contexts.get(context_id)
        if context is not None:
            context.cancelled = True
            self.state.cancelled_contexts += 1
            # Wakes a context that waits for its next input.
            with contextlib.suppress(asyncio.QueueFull):
                context.inputs.put_nowait(context.first.model_copy(update={"transcript": "", "continue_": False}))

    async def _speak(self, context: _Context) -> None:
        """All inputs of one context, until its end, its cancel or its expiry."""
        context_id = context.first.context_id
        try:
            await self._speak_inputs(context)
            if not context.cancelled:
                await self._send({"type": "done", "context_id": context_id, "done": True, "status_code": 200})
        except ApiError as error:
            await self._error(context_id, error)
        except ConnectionError:
            pass
        finally:
            self._contexts.pop(context_id, None)
            self._closed.add(context_id)
            self.state.release()

    async def _speak_inputs(self, context: _Context) -> None:
        last = False
        while not last and not context.cancelled:
            try:
                # Before the first input there is nothing that could expire: the first one is already queued.
                async with asyncio.timeout(self.state.config.tts_context_expiry_s):
                    body = await context.inputs.get()
            except TimeoutError:
                return
            body, last = await self._buffered(context, body)
            if body.transcript.strip() and not context.cancelled:
                await self._speak_one(context, body)
            if body.flush and not context.cancelled:
                context.flushes += 1
                done = {"flush_id": context.flushes, "flush_done": True, "done": False, "status_code": 206}
                await self._send({"type": "flush_done", "context_id": body.context_id, **done})

    async def _buffered(self, context: _Context, body: ContextBody) -> tuple[ContextBody, bool]:
        """Text waits for more, up to `max_buffer_delay_ms`, unless it is flushed or is the last."""
        text, flush, last = body.transcript, body.flush, not body.continue_
        if context.first.max_buffer_delay_ms == 0:
            return body, last
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(context.first.max_buffer_delay_ms / 1000):
                while text.strip() and not flush and not last:
                    more = await context.inputs.get()
                    text += more.transcript
                    flush, last = more.flush, not more.continue_
        return body.model_copy(update={"transcript": text, "flush": flush}), last

    async def _speak_one(self, context: _Context, body: ContextBody) -> None:
        timings = self.request.app[TIMINGS]
        if self._fault is None:
            self._fault = self.request.app[FAULTS].take_stream("cartesia", text=body.transcript)
            self._messages_until_fault = 0 if self._fault is None else self._fault.after
        first_s = self.state.delays.draw_s("tts_first_audio")
        note = SpeechNote(body.context_id, body.transcript, time.monotonic(), first_s * 1000)
        odd = self._fault is not None and self._fault.kind == "odd_chunks"
        prepared = await spoken(self.state, body, odd=odd)
        flush_id = {"flush_id": context.flushes + 1} if context.flushes or body.flush else {}
        head = {"context_id": body.context_id, "done": False, "status_code": 206, **flush_id}
        tail = f', "step_time": 12.5, {json.dumps(head)[1:]}'
        late = 0
        async for index in paced(self.state, prepared, first_s - (time.monotonic() - note.text_at)):
            if context.cancelled:
                late += 1
                if late > _LATE_CHUNKS:
                    return
            await self._send_text(f'{{"type": "chunk", "data": {prepared.chunks_json[index]}{tail}', head)
            if index:
                continue
            note.first_audio_at = time.monotonic()
            timings.speeches.append(note)
            timings.lateness.add((note.first_audio_at - note.text_at - first_s) * 1000)
            if body.add_timestamps:
                words = timestamps(prepared.speech, context.spoken_s)
                await self._send({"type": "timestamps", "word_timestamps": words, **head})
        context.spoken_s += prepared.speech.duration_s

    async def _error(self, context_id: str | None, error: ApiError) -> None:
        document = {"type": "error", "done": True, **error.document()}
        with contextlib.suppress(ConnectionError):
            await self._send({**document, "context_id": context_id} if context_id else document)

    async def _send(self, document: dict[str, Any]) -> None:
        await self._send_text(json.dumps(document), document)

    async def _send_text(self, text: str, document: dict[str, Any]) -> None:
        """One message, unless the fault of this socket says otherwise. `document`: what names its context."""
        fault = self._fault
        if fault is not None and self._messages_until_fault > 0:
            self._messages_until_fault -= 1
        elif fault is not None:
            if fault.kind == "silent":
                return
            await self._break(fault, document)
        if not self._hung.is_set():
            await self.socket.send_str(text)

    async def _break(self, fault: Fault, document: dict[str, Any]) -> None:
        """Apply a fault that is due. Raises ConnectionError when the socket is gone, ApiError for an error message."""
        if fault.kind == "odd_chunks":
            return
        self._fault = None
        if fault.kind == "unknown_message":
            await self.socket.send_json({"type": "viseme", "context_id": document.get("context_id"), "done": False})
        elif fault.kind == "error_event":
            raise ApiError(500, "internal_server_error", "the stand-in was told to fail")
        elif fault.kind == "error_without_context":
            error = ApiError(500, "internal_server_error", "the stand-in was told to fail")
            await self.socket.send_json({"type": "error", "done": True, **error.document()})
            raise ConnectionError("the context is lost")
        elif fault.kind == "close":
            await self.socket.close(code=1011, message=b"internal error")
            raise ConnectionError("closed")
        elif fault.kind == "cut":
            abort(self.request)
            raise ConnectionError("cut")
        elif fault.kind == "hang_mid_stream":
            self._hung.set()
