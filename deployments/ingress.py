"""MediaIngress: the caller's WebSocket, and nothing else.

It admits the socket (one-time token, slot, session lease: all before it is accepted), then passes its messages both
ways without looking inside, and keeps the opening text messages for a later session of the same call.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import ray
import structlog
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from deployments.config import AppArgs, complete_settings
from deployments.handles import far_handle
from deployments.link.address import LinkAddress
from deployments.link.client import ClientChannel, LinkPool, LinkRefusedError
from deployments.names import CONTROL_APP, WORKERS
from serve_app.conversation.lease import CallLease
from serve_app.errors import ParleyError
from serve_app.log import configure_logging
from serve_app.settings import Settings
from serve_app.store.live import LiveState
from serve_app.telephony.base import WireMessage

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPENING_TEXTS = 4
"""How many text messages from the start of a call are kept: the first one carries the audio format."""

MAX_MESSAGE_BYTES = 1 << 16
"""A frame of 20 ms has at most 960 bytes, a control message a few hundred."""

SLOT_TTL_S = 60
REPORT_TIMEOUT_S = 30
"""Longer than the hang-up by REST and the record's end may take: a report that is cut short does neither."""
LAST_MESSAGE_TIMEOUT_S = 0.5
CLOSE_TIMEOUT_S = 2.0
"""How long a caller's socket that does not read may hold up the end of its call."""

log = structlog.get_logger()


class DeniedError(Exception):
    """The socket is not accepted. `detail` is for the log: whoever opened the socket may be anybody."""

    def __init__(self, status: int, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.detail = detail


class SessionLease:
    """The streaming handle call that holds a session for as long as the call lasts.

    It runs in a context of its own: Serve cancels the handle calls of a WebSocket whose client hangs up, and the
    session must end the call in order instead.
    """

    def __init__(self, sessions: DeploymentHandle[Any], lease: CallLease, node_id: str) -> None:
        self._first: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.ended = False
        """The session said that it is done."""
        self.on_failed: Callable[[str], None] = lambda reason: None
        self.task = asyncio.create_task(
            self._follow(sessions, lease.model_dump(mode="json"), node_id), context=contextvars.Context()
        )
        """Ends when the session is done, which may be long after the socket: whoever leases keeps it."""

    async def first(self, timeout_s: float) -> dict[str, Any]:
        """Where the frames go. Raises TimeoutError, RayError or RayServeException."""
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self._first)

    def release(self) -> None:
        """Give the session back before the call began."""
        self.task.cancel()

    async def _follow(self, sessions: DeploymentHandle[Any], lease: dict[str, Any], node_id: str) -> None:
        stream = sessions.options(stream=True).run_call.remote(lease, node_id)
        assert isinstance(stream, DeploymentResponseGenerator)
        try:
            async for event in _items(stream):
                if not self._first.done():
                    self._first.set_result(event)
                elif event.get("type") == "ended":
                    self.ended = True
        except (RayError, RayServeException) as error:
            if not self._first.done():
                self._first.set_exception(error)
            elif not self.ended:
                self.on_failed(f"the session failed: {type(error).__name__}")
        except asyncio.CancelledError:
            stream.cancel()  # type: ignore[no-untyped-call]
            raise
        else:
            if not self._first.done():
                self._first.set_exception(RayServeException("the session gave up before the call began"))


async def _items(stream: DeploymentResponseGenerator[Any]) -> AsyncIterator[dict[str, Any]]:
    async for item in stream:
        yield item


class CallerSocket:
    """One accepted socket: its messages to the session, the session's messages to it, in bounded queues."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._out: deque[WireMessage] = deque()
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._close_reason: str | None = None
        self.lost: str | None = None
        self.ended = "the caller's socket closed with code 1006"
        self.dropped = 0
        self.opening: list[str] = []

    # --- CallerSink: called by the link -----------------------------------------------------------------------------

    def message(self, message: WireMessage) -> None:
        if len(self._out) >= self._limit and not self._drop_oldest_audio():
            # Text alone fills the queue, and text must not be lost in silence.
            self._end(close_reason="the caller's socket does not read")
            return
        self._out.append(message)
        self._wake.set()

    def session_closed(self, reason: str) -> None:
        self._end(close_reason=reason)

    def session_lost(self, reason: str) -> None:
        if self._close_reason is None and self.lost is None:
            self._end(lost=reason)

    def _end(self, *, close_reason: str | None = None, lost: str | None = None) -> None:
        self._close_reason, self.lost = self._close_reason or close_reason, self.lost or lost
        self._wake.set()
        self._closing.set()

    # --- the two directions -----------------------------------------------------------------------------------------

    async def pump(self, channel: ClientChannel) -> str:
        """Pass messages until either side ends. Returns why, which is also kept in `ended`."""
        reading = asyncio.create_task(self._read(channel))
        writing = asyncio.create_task(self._write())
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({reading, writing, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and not writing.done():
                # What is queued still goes out, but a socket that takes nothing must not hold up the end.
                await asyncio.wait({reading, writing}, timeout=CLOSE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and writing.result() is None:
                # The socket is gone, and how it went is with the reader.
                await asyncio.wait({reading}, timeout=LAST_MESSAGE_TIMEOUT_S)
            if reading.done():
                self.ended = reading.result()
            elif writing.done():
                self.ended = writing.result() or self.ended
            else:
                self.ended = self._last_words()
            return self.ended
        except asyncio.CancelledError:
            # Serve's direct ingress cancels this handler when the socket ends, often before the message that says how
            # it ended (the callee hung up, or the line broke) is read.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_MESSAGE_TIMEOUT_S):
                    self.ended = await reading
            raise
        finally:
            for task in (reading, writing, closing):
                task.cancel()
            await asyncio.gather(reading, writing, closing, return_exceptions=True)

    async def _read(self, channel: ClientChannel) -> str:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return f"the caller's socket closed with code {message.get('code', 1006)}"
            data = message.get("bytes")
            text = message.get("text") or ""
            if len(data or text) > MAX_MESSAGE_BYTES:
                return f"the caller's socket sent a message of {len(data or text)} characters or bytes"
            if data is not None:
                channel.send(data)
                continue
            if len(self.opening) < OPENING_TEXTS:
                self.opening.append(text)
            channel.send(text)

    async def _write(self) -> str | None:
        """Why the socket is done with; None when it was gone."""
        try:
            return await self._write_out()
        except (OSError, RuntimeError):
            # The server's way to say that the socket closed in the meantime (ASGI 2.4), and that it had closed before.
            return None

    async def _write_out(self) -> str:
        out, wake, send = self._out, self._wake, self._send
        while True:
            while out:
                message = out.popleft()
                if isinstance(message, bytes):
                    await send({"type": "websocket.send", "bytes": message})
                else:
                    await send({"type": "websocket.send", "text": message})
            if self._close_reason is not None:
                await send({"type": "websocket.close", "code": 1000, "reason": self._close_reason[:100]})
            if self._closing.is_set():
                return self._last_words()
            wake.clear()
            await wake.wait()

    def _last_words(self) -> str:
        return f"session lost: {self.lost}" if self._close_reason is None else self._close_reason

    def _drop_oldest_audio(self) -> bool:
        for index, queued in enumerate(self._out):
            if isinstance(queued, bytes):
                del self._out[index]
                self.dropped += 1
                return True
        return False


@serve.deployment(name="MediaIngress")
@serve.ingress(None)
class MediaIngress:
    """The ASGI application behind `/media`. Plain ASGI: a frame passes through as few hands as possible."""

    async def __init__(self, args: AppArgs, sessions: DeploymentHandle[Any], pool: DeploymentHandle[Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        # `pool` is not used here: Serve deploys what the ingress of an application is bound to.
        settings, _ = await complete_settings(args)
        configure_logging(settings.log)
        self._settings: Settings = settings
        assert settings.redis.url is not None
        self._live = await LiveState.connect(settings.redis.url, connect_timeout_s=settings.redis.connect_timeout_s)
        self._sessions = sessions
        self._links = LinkPool(settings.link)
        self._node_id = ray.get_runtime_context().get_node_id()
        self._background: set[asyncio.Task[None]] = set()
        """Reports, and the leases of calls: they outlive their sockets."""

    def __serve_build_asgi_app__(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        # A function: uvicorn takes a bound method for an ASGI 2 application.
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app(scope, receive, send)

        return app

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        else:
            body = json.dumps({"status": 426, "title": "This address takes the phone network's WebSocket"}).encode()
            headers = [(b"content-type", b"application/problem+json"), (b"upgrade", b"websocket")]
            await send({"type": "http.response.start", "status": 426, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        caller = CallerSocket(receive, send, self._settings.link.queue_messages)
        try:
            lease = await self._redeem(scope)
            channel = await self._admit(lease, caller)
        except DeniedError as denied:
            log.warning("media socket refused", status=denied.status, reason=str(denied), detail=denied.detail)
            await _deny(send, denied)
            return
        try:
            await send({"type": "websocket.accept"})
            await caller.pump(channel)
        finally:
            channel.close(caller.ended)
            if caller.lost is not None:
                # Only this process still holds the caller: it asks for the hang-up and for the record's end.
                self._report(lease, "session_lost", caller.lost)
        if caller.lost is not None:
            log.error("session lost", call_id=lease.call_id, reason=caller.lost)
            with contextlib.suppress(OSError, RuntimeError):  # the socket may be gone as well
                await send({"type": "websocket.close", "code": 1011, "reason": "session lost"})
        elif caller.dropped:
            log.warning("the caller's socket was slow", call_id=lease.call_id, dropped=caller.dropped)

    async def _redeem(self, scope: Scope) -> CallLease:
        """The call that this socket belongs to, for its one-time token. Raises DeniedError."""
        call_id, token = _credentials(scope)
        if token is None:
            raise DeniedError(401, "no media token")
        try:
            async with asyncio.timeout(self._settings.redis.connect_timeout_s):
                payload = await self._live.take_media_token(token)
            if payload is None:
                raise DeniedError(401, "the media token is unknown, used or expired")
            lease = CallLease.model_validate_json(payload)
        except ValidationError as error:
            # Its text holds what was refused, and so the numbers of the call.
            raise DeniedError(503, "admission is not possible", f"{error.error_count()} errors in the lease") from None
        except (ParleyError, TimeoutError) as error:
            raise DeniedError(503, "admission is not possible", repr(error)) from error
        if call_id is not None and call_id != lease.call_id:
            raise DeniedError(401, "the media token belongs to another call")
        return lease

    async def _admit(self, lease: CallLease, caller: CallerSocket) -> ClientChannel:
        """A slot, a session and the way to it. Raises DeniedError; then, and when cancelled, it leaves nothing behind.

        The token is used up, so a call that fails here has failed for good, and is ended.
        """
        session: SessionLease | None = None
        try:
            await self._hold_slot(lease)
            session = SessionLease(self._sessions, lease, self._node_id)
            session.on_failed = caller.session_lost
            self._keep(session.task)
            return await self._attach(session, lease, caller)
        except BaseException as error:
            if session is not None:
                session.release()
            if isinstance(error, DeniedError):
                self._report(lease, "no_capacity", str(error))
            else:
                # Serve cancels the handler of a caller who is gone.
                self._report(lease, "media_failure", "the network closed its media socket before the call began")
            raise

    async def _hold_slot(self, lease: CallLease) -> None:
        try:
            async with asyncio.timeout(self._settings.redis.connect_timeout_s):
                held = await self._live.keep(lease.slot_id, SLOT_TTL_S)
                if not held and not await self._live.reserve(lease.slot_id, SLOT_TTL_S):
                    raise DeniedError(503, "no free session", "the slot expired and no other is free")
        except (ParleyError, TimeoutError) as error:
            raise DeniedError(503, "admission is not possible", repr(error)) from error

    async def _attach(self, session: SessionLease, lease: CallLease, caller: CallerSocket) -> ClientChannel:
        """Lease a session and attach to it. Raises DeniedError."""
        try:
            first = await session.first(self._settings.link.attach_timeout_s)
            return await self._links.attach(
                LinkAddress.model_validate(first["address"]),
                call_id=lease.call_id,
                epoch=lease.epoch,
                token=first["token"],
                proof=first["proof"],
                sink=caller,
            )
        except (TimeoutError, OSError, LinkRefusedError, RayError, RayServeException) as error:
            raise DeniedError(503, "no session took the call", repr(error)) from error

    def _report(self, lease: CallLease, outcome: str, detail: str) -> None:
        """Tell the workers that a call ended without its session. The reconciler finds it if this is lost."""

        async def report() -> None:
            try:
                workers = far_handle(WORKERS, CONTROL_APP)
                await asyncio.wait_for(
                    workers.call_lost.remote(lease.model_dump(mode="json"), outcome, detail), timeout=REPORT_TIMEOUT_S
                )
            except (RayError, RayServeException, TimeoutError) as error:
                log.warning("a lost call was not reported", call_id=lease.call_id, error=str(error))

        self._keep(asyncio.create_task(report(), context=contextvars.Context()))

    def _keep(self, task: asyncio.Task[None]) -> None:
        # The event loop itself holds tasks by weak references only.
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _credentials(scope: Scope) -> tuple[str | None, str | None]:
    """(call id, one-time token): `Authorization: Bearer TOKEN` at `/media/CALL`, or `/media/CALL/TOKEN`."""
    path = str(scope.get("path", ""))
    root = str(scope.get("root_path", ""))
    if root and path.startswith(root):
        path = path[len(root) :]
    parts = [part for part in path.split("/") if part and part != "media"]
    call_id = parts[0] if parts else None
    for name, value in scope.get("headers", []):
        if name.lower() == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer" and token:
                return call_id, token.strip()
    return call_id, parts[1] if len(parts) > 1 else None


async def _deny(send: Send, denied: DeniedError) -> None:
    body = json.dumps({"title": str(denied), "status": denied.status}).encode()
    headers = [(b"content-type", b"application/problem+json")]
    await send({"type": "websocket.http.response.start", "status": denied.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
