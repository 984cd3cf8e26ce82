"""MediaIngress: the caller's WebSocket, and nothing else.

A socket comes to the replica's own media listener, or through Serve's proxy: the same application answers both.

It admits the socket (one-time token, slot, session lease: all before it is accepted), then passes its messages both
ways without looking inside, and keeps the opening text messages for a later session of the same call.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import ray
import structlog
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.config import AppArgs, complete_settings
from deployments.draining import draining_period_s, until_refusing
from deployments.handles import ready_handle, warm
from deployments.link.address import LinkAddress
from deployments.link.client import ClientChannel, LinkPool, LinkRefusedError
from deployments.load_report import report_load
from deployments.media_listener import MediaListener
from deployments.names import CONTROL_APP, WORKERS
from deployments.priority import prefer_calls
from deployments.session_lease import SessionLease
from deployments.vitals import Vitals
from serve_app import garbage
from serve_app.conversation.lease import CallLease
from serve_app.errors import ParleyError
from serve_app.log import configure_logging
from serve_app.media_address import describe_media
from serve_app.settings import Settings
from serve_app.store.live import LiveState
from serve_app.telephony import direct_socket
from serve_app.telephony.base import WireMessage
from serve_app.telephony.sockets import CallerSocket, Receive, Scope, Send, caller_socket, closed_by_caller

OPENING_TEXTS = 4
"""How many text messages from the start of a call are kept: the first one carries the audio format."""

SLOT_TTL_S = 60
REPORT_TIMEOUT_S = 30
"""Longer than the hang-up by REST and the record's end may take: a report that is cut short does neither."""

log = structlog.get_logger()


class DeniedError(Exception):
    """The socket is not accepted. `detail` is for the log: whoever opened the socket may be anybody."""

    def __init__(self, status: int, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.detail = detail


class Relay:
    """Both directions of one call: the caller's socket is one end, the link's channel the other."""

    def __init__(self, socket: CallerSocket) -> None:
        self.socket = socket
        self.lost: str | None = None
        """Why the session is gone, when it is."""
        self.opening: list[str] = []
        self._channel: ClientChannel | None = None
        self._frames: list[WireMessage] = []
        self._loop = asyncio.get_running_loop()

    async def run(self, channel: ClientChannel) -> None:
        """Accept the socket and pass messages until it is over."""
        self._channel = channel
        try:
            await self.socket.accept(self)
            await self.socket.ended()
        finally:
            channel.close(closed_by_caller(1006))
            # The channel holds this relay: an ended call is freed at once, not when the collector comes around.
            self._channel = None

    # --- MediaSink: called by the caller's socket -------------------------------------------------------------------

    def media_received(self, message: WireMessage) -> None:
        if self._channel is None:
            return
        if isinstance(message, str) and len(self.opening) < OPENING_TEXTS:
            self.opening.append(message)
        self._channel.send(message)

    def media_closed(self, reason: str) -> None:
        if self._channel is not None:
            self._channel.close(reason)

    # --- CallerSink: called by the link -----------------------------------------------------------------------------

    def message(self, message: WireMessage) -> None:
        """The frames of a burst arrive in one read of the link: they leave in one write, at the end of this pass."""
        self._frames.append(message)
        if isinstance(message, str):
            self._flush()
        elif len(self._frames) == 1:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._frames:
            frames, self._frames = self._frames, []
            self.socket.send(*frames)

    def session_closed(self, reason: str) -> None:
        self._flush()
        self.socket.close(reason)

    def session_lost(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
            self._flush()
            self.socket.close("session lost", 1011)


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
        self._workers = ready_handle(WORKERS, CONTROL_APP)
        warm(sessions)
        self._node_id = ray.get_runtime_context().get_node_id()
        self._background: set[asyncio.Task[None]] = set()
        """Reports, and the leases of calls: they outlive their sockets."""
        self._load_report = asyncio.create_task(report_load(self._live, "ingress"))
        self._vitals = Vitals(self._live, "ingress", f"ingress@{socket.gethostname()}:{os.getpid()}")
        self._vitals_report = asyncio.create_task(self._vitals.run())

        direct_socket.install()
        garbage.settle()
        prefer_calls()
        # Last: from here on calls come.
        self._listener = self._listen()
        self._refusing = asyncio.create_task(self._refuse_when_drained())

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `deployments.autoscaling.ingress_policy`: the sockets that Serve does not count."""
        return {"own_sockets": float(self._listener.sockets if self._listener is not None else 0)}

    def _listen(self) -> MediaListener | None:
        """Raises SettingsError."""
        server = self._settings.server
        log.info("media", **describe_media(self._settings), listener=server.media_port)
        if server.media_port is None:
            return None
        listener = MediaListener(self._app, host=server.media_host, port=server.media_port)
        listener.open()
        return listener

    async def _refuse_when_drained(self) -> None:
        if self._listener is not None:
            await until_refusing(draining_period_s())
            self._listener.close()

    async def _wait_for_calls(self) -> None:
        """Until this replica holds no call any more.

        A socket that did not come through Serve is no request of Serve's, so its drain does not wait for it. What Serve
        does await (2.60, `_perform_graceful_shutdown`), once its own requests are over and before the replica exits, is
        the end of the ASGI lifespan. The replica is killed after `graceful_shutdown_timeout_s`, whatever it waits for.
        """
        if self._listener is not None:
            self._listener.close()
            await self._listener.drained()
        # The sessions of those calls still write their records, and are cancelled when nobody holds their lease.
        while self._background:
            await asyncio.wait(self._background)

    def __serve_build_asgi_app__(self) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        # A function: uvicorn takes a bound method for an ASGI 2 application.
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._app(scope, receive, send)

        return app

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()  # lifespan.startup
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            await self._wait_for_calls()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            body = json.dumps({"status": 426, "title": "This address takes the phone network's WebSocket"}).encode()
            headers = [(b"content-type", b"application/problem+json"), (b"upgrade", b"websocket")]
            await send({"type": "http.response.start", "status": 426, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        relay = Relay(caller_socket(scope, receive, send, limit=self._settings.link.queue_messages))
        try:
            lease = await self._redeem(scope)
            channel = await self._admit(lease, relay)
        except DeniedError as denied:
            log.warning("media socket refused", status=denied.status, reason=str(denied), detail=denied.detail)
            await _deny(send, denied)
            return
        try:
            with self._vitals.call(relay):
                await relay.run(channel)
        finally:
            if relay.lost is not None:
                log.error("session lost", call_id=lease.call_id, reason=relay.lost)
                # Only this process still holds the caller: it asks for the hang-up and for the record's end.
                self._report(lease, "session_lost", relay.lost)
            elif relay.socket.dropped:
                log.warning("the caller's socket was slow", call_id=lease.call_id, dropped=relay.socket.dropped)

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

    async def _admit(self, lease: CallLease, relay: Relay) -> ClientChannel:
        """A slot, a session and the way to it. Raises DeniedError; then, and when cancelled, it leaves nothing behind.

        The token is used up, so a call that fails here has failed for good, and is ended.
        """
        session: SessionLease | None = None
        try:
            await self._hold_slot(lease)
            session = SessionLease(self._sessions, lease, self._node_id)
            session.on_failed = relay.session_lost
            self._keep(session.task)
            return await self._attach(session, lease, relay)
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
                if not held and not await self._live.reserve(lease.slot_id, SLOT_TTL_S, lease.scopes):
                    raise DeniedError(503, "no free session", "the slot expired and no other is free")
        except (ParleyError, TimeoutError) as error:
            raise DeniedError(503, "admission is not possible", repr(error)) from error

    async def _attach(self, session: SessionLease, lease: CallLease, relay: Relay) -> ClientChannel:
        """Lease a session and attach to it. Raises DeniedError."""
        try:
            first = await session.first(self._settings.link.attach_timeout_s)
            return await self._links.attach(
                LinkAddress.model_validate(first["address"]),
                call_id=lease.call_id,
                epoch=lease.epoch,
                token=first["token"],
                proof=first["proof"],
                sink=relay,
            )
        except (TimeoutError, OSError, LinkRefusedError, RayError, RayServeException) as error:
            raise DeniedError(503, "no session took the call", repr(error)) from error

    def _report(self, lease: CallLease, outcome: str, detail: str) -> None:
        """Tell the workers that a call ended without its session. The reconciler finds it if this is lost."""

        async def report() -> None:
            try:
                await asyncio.wait_for(
                    self._workers.call_lost.remote(lease.model_dump(mode="json"), outcome, detail),
                    timeout=REPORT_TIMEOUT_S,
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
