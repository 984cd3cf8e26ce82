"""The ingress's end of the link: one connection per session process, one channel per call."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from deployments.link.address import LinkAddress, ray_tls
from deployments.link.connection import LinkConnection
from deployments.link.frames import Kind
from deployments.link.server import set_nodelay
from serve_app.settings import LinkSettings
from serve_app.telephony.base import WireMessage


class LinkRefusedError(Exception):
    """The session process does not take this call, or is not the one that it says it is."""


class CallerSink(Protocol):
    """The ingress's side of a call; called on the event loop, must return at once."""

    def message(self, message: WireMessage) -> None:
        """For the caller's socket."""
        ...

    def session_closed(self, reason: str) -> None:
        """The session wants the caller's socket closed."""
        ...

    def session_lost(self, reason: str) -> None:
        """The session process, or the way to it, is gone. Called at most once, and never after `session_closed`."""
        ...


@dataclass(slots=True)
class ClientChannel:
    """One call on the link, seen from the ingress."""

    sink: CallerSink
    _connection: _ClientConnection
    _channel: int
    _answer: asyncio.Future[str]
    _closed: bool = field(default=False)

    def send(self, message: WireMessage) -> None:
        if self._closed:
            return
        if isinstance(message, str):
            self._connection.send_frame(self._channel, Kind.TEXT, message.encode())
        else:
            self._connection.send_frame(self._channel, Kind.BINARY, message)

    def close(self, reason: str) -> None:
        """The caller's socket closed. Idempotent."""
        if not self._closed:
            self._closed = True
            self._connection.send_frame(self._channel, Kind.CLOSE, reason.encode())
            self._connection.release(self._channel)


class LinkPool:
    """The connections of one ingress process."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._connections: dict[str, _ClientConnection] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def attach(
        self, address: LinkAddress, *, call_id: str, epoch: int, token: str, proof: str, sink: CallerSink
    ) -> ClientChannel:
        """Attach a call. Raises LinkRefusedError, OSError or TimeoutError (`attach_timeout_s` in all)."""
        async with asyncio.timeout(self._settings.attach_timeout_s):
            connection = await self._connect(address)
            channel = connection.open(sink)
            request = {"call_id": call_id, "epoch": epoch, "token": token}
            connection.send_frame(channel._channel, Kind.ATTACH, json.dumps(request).encode())
            try:
                answer = await channel._answer
            except BaseException:
                # The session may have taken the call in the meantime: it must not wait for a caller.
                channel.close("the ingress gave up the attachment")
                raise
        if not hmac.compare_digest(answer.encode(), proof.encode()):
            channel.close("wrong proof")
            raise LinkRefusedError("the process at this address does not hold the call")
        return channel

    async def close(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()

    async def _connect(self, address: LinkAddress) -> _ClientConnection:
        # A lock per address: the first frames of many calls at once must share one connection.
        async with self._locks.setdefault(address.key, asyncio.Lock()):
            existing = self._connections.get(address.key)
            if existing is not None and existing.alive:
                return existing
            loop = asyncio.get_running_loop()
            if address.path is not None:
                _, connection = await loop.create_unix_connection(self._connection, address.path)
            else:
                assert address.host is not None and address.port is not None
                _, connection = await loop.create_connection(
                    self._connection, address.host, address.port, ssl=ray_tls(server=False)
                )
            connection.on_lost = lambda: self._forget(address.key, connection)
            self._connections[address.key] = connection
            return connection

    def _connection(self) -> _ClientConnection:
        return _ClientConnection(self._settings)

    def _forget(self, key: str, connection: _ClientConnection) -> None:
        # Session processes come and go: neither their connections nor their locks may pile up here.
        if self._connections.get(key) is connection:
            del self._connections[key]
            lock = self._locks.get(key)
            if lock is not None and not lock.locked():
                del self._locks[key]


class _ClientConnection(LinkConnection):
    def __init__(self, settings: LinkSettings) -> None:
        super().__init__(heartbeat_s=settings.heartbeat_s, queue_messages=settings.queue_messages)
        self._channels: dict[int, ClientChannel] = {}
        self._next = 0
        self.on_lost: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        set_nodelay(transport)

    def open(self, sink: CallerSink) -> ClientChannel:
        while True:
            self._next = self._next % 0xFFFFFFFF + 1
            if self._next not in self._channels:
                break
        channel = ClientChannel(sink, self, self._next, self._loop.create_future())
        self._channels[self._next] = channel
        return channel

    def release(self, channel: int) -> None:
        self._channels.pop(channel, None)
        # What waits for a slow peer is left to go out: the CLOSE is among it.

    def frame_received(self, channel: int, kind: Kind, payload: bytes) -> None:
        call = self._channels.get(channel)
        if call is None:
            return
        if kind is Kind.BINARY:
            call.sink.message(payload)
        elif kind is Kind.TEXT:
            call.sink.message(payload.decode("utf-8", "replace"))
        elif kind is Kind.CLOSE:
            call._closed = True
            self.release(channel)
            call.sink.session_closed(payload.decode("utf-8", "replace"))
        elif call._answer.done():
            return
        elif kind is Kind.ATTACHED:
            call._answer.set_result(payload.decode())
        elif kind is Kind.REFUSED:
            self.release(channel)
            call._answer.set_exception(LinkRefusedError(payload.decode("utf-8", "replace")))

    def channel_overflowed(self, channel: int, reason: str) -> None:
        call = self._channels.pop(channel, None)
        if call is not None:
            call._closed = True
            call.sink.session_lost(reason)

    def link_lost(self, reason: str) -> None:
        self.on_lost()
        channels, self._channels = self._channels, {}
        for call in channels.values():
            call._closed = True
            if not call._answer.done():
                call._answer.set_exception(LinkRefusedError(reason))
            else:
                call.sink.session_lost(reason)
