"""The session's end of the link: it invites, the ingress attaches, messages go to the call's sink."""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
import uuid
from collections import deque
from dataclasses import dataclass, field

from deployments.link.address import LinkAddress, ray_tls, socket_dir
from deployments.link.connection import LinkConnection
from deployments.link.frames import Kind
from serve_app.settings import LinkSettings
from serve_app.telephony.base import MediaSink, WireMessage


@dataclass(slots=True)
class ServerChannel:
    """One call on the link. It is the session's `MediaPort`."""

    call_id: str
    epoch: int
    token: str
    proof: str
    _limit: int
    _attached: asyncio.Future[None]
    _connection: _ServerConnection | None = None
    _channel: int = 0
    _sink: MediaSink | None = None
    _early: deque[WireMessage] = field(default_factory=deque)
    _closed: str | None = None

    async def attached(self, timeout_s: float) -> None:
        """Wait until the ingress attaches. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(self._attached)

    def bind(self, sink: MediaSink) -> None:
        """Deliver to `sink` from now on, first what came since the attachment."""
        self._sink = sink
        while self._early:
            sink.media_received(self._early.popleft())
        if self._closed is not None:
            sink.media_closed(self._closed)

    def send(self, *messages: WireMessage) -> None:
        if self._connection is None or self._closed is not None:
            return
        for message in messages:
            if isinstance(message, str):
                self._connection.send_frame(self._channel, Kind.TEXT, message.encode())
            else:
                self._connection.send_frame(self._channel, Kind.BINARY, message)

    def close(self, reason: str) -> None:
        """Close the caller's socket. The sink hears `media_closed` from here, once."""
        if self._closed is not None:
            return
        if self._connection is not None:
            self._connection.send_frame(self._channel, Kind.CLOSE, reason.encode())
            self._connection.release(self._channel)
        self._ended(reason)

    # --- called by the connection -----------------------------------------------------------------------------------

    def _attach(self, connection: _ServerConnection, channel: int) -> None:
        self._connection, self._channel = connection, channel
        if not self._attached.done():
            self._attached.set_result(None)

    def _deliver(self, message: WireMessage) -> None:
        if self._sink is not None:
            self._sink.media_received(message)
            return
        if len(self._early) >= self._limit:
            self._early.popleft()
        self._early.append(message)

    def _ended(self, reason: str) -> None:
        if self._closed is None:
            self._closed = reason
            if self._sink is not None:
                self._sink.media_closed(reason)


class LinkServer:
    """Listens on a Unix socket; on TCP, on the node's address, from the first call of another node on."""

    def __init__(self, settings: LinkSettings, *, node_ip: str = "127.0.0.1") -> None:
        self._settings = settings
        self._node_ip = node_ip
        self._expected: dict[str, ServerChannel] = {}
        self._connections: set[_ServerConnection] = set()
        self._unix: asyncio.Server | None = None
        self._tcp: asyncio.Server | None = None
        self._tcp_lock = asyncio.Lock()
        self._path = socket_dir() / f"{uuid.uuid4().hex}.sock"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._unix = await loop.create_unix_server(self._connection, path=str(self._path))
        self._path.chmod(0o600)

    async def close(self) -> None:
        for server in (self._unix, self._tcp):
            if server is not None:
                server.close()
        for connection in list(self._connections):
            connection.abort("the session process stops")
        self._path.unlink(missing_ok=True)

    async def address(self, *, same_node: bool) -> LinkAddress:
        """Where an ingress on the same node, or on another one, reaches this process."""
        transport = self._settings.transport
        if transport == "unix" or (transport == "auto" and same_node):
            return LinkAddress(path=str(self._path))
        async with self._tcp_lock:
            if self._tcp is None:
                loop = asyncio.get_running_loop()
                self._tcp = await loop.create_server(
                    self._connection, host=self._node_ip, port=0, ssl=ray_tls(server=True)
                )
        return LinkAddress(host=self._node_ip, port=self._tcp.sockets[0].getsockname()[1])

    def invite(self, call_id: str, epoch: int) -> ServerChannel:
        """Expect the ingress of this call. An older invitation of the same call is void from here on."""
        older = self._expected.pop(call_id, None)
        if older is not None:
            older._ended(f"superseded by epoch {epoch}")
        channel = ServerChannel(
            call_id=call_id,
            epoch=epoch,
            token=secrets.token_urlsafe(24),
            proof=secrets.token_urlsafe(24),
            _limit=self._settings.queue_messages,
            _attached=asyncio.get_running_loop().create_future(),
        )
        self._expected[call_id] = channel
        return channel

    def withdraw(self, channel: ServerChannel) -> None:
        """Forget an invitation (attached or not). Idempotent."""
        if self._expected.get(channel.call_id) is channel:
            del self._expected[channel.call_id]

    def _connection(self) -> _ServerConnection:
        return _ServerConnection(self, self._settings)

    def _accept(self, call_id: str, epoch: int, token: str) -> ServerChannel | str:
        """The invited channel, or why the attachment is refused. An invitation serves once."""
        channel = self._expected.get(call_id)
        if channel is None:
            return "no such call here"
        if epoch != channel.epoch:
            return f"epoch {epoch} is not {channel.epoch}"
        if not hmac.compare_digest(token.encode(), channel.token.encode()):
            return "wrong token"
        del self._expected[call_id]
        return channel


class _ServerConnection(LinkConnection):
    def __init__(self, server: LinkServer, settings: LinkSettings) -> None:
        super().__init__(heartbeat_s=settings.heartbeat_s, queue_messages=settings.queue_messages)
        self._server = server
        self._channels: dict[int, ServerChannel] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server._connections.add(self)
        set_nodelay(transport)

    def frame_received(self, channel: int, kind: Kind, payload: bytes) -> None:
        call = self._channels.get(channel)
        if kind is Kind.BINARY:
            if call is not None:
                call._deliver(payload)
        elif kind is Kind.TEXT:
            if call is not None:
                call._deliver(payload.decode("utf-8", "replace"))
        elif kind is Kind.CLOSE:
            if call is not None:
                self.release(channel)
                call._ended(payload.decode("utf-8", "replace"))
        elif kind is Kind.ATTACH:
            self._attach(channel, payload)

    def _attach(self, channel: int, payload: bytes) -> None:
        try:
            request = json.loads(payload)
            found = self._server._accept(str(request["call_id"]), int(request["epoch"]), str(request["token"]))
        except (ValueError, KeyError, TypeError):
            found = "malformed attachment"
        if isinstance(found, str):
            self.send_frame(channel, Kind.REFUSED, found.encode())
            return
        self._channels[channel] = found
        self.send_frame(channel, Kind.ATTACHED, found.proof.encode())
        found._attach(self, channel)

    def release(self, channel: int) -> None:
        self._channels.pop(channel, None)

    def channel_overflowed(self, channel: int, reason: str) -> None:
        call = self._channels.pop(channel, None)
        if call is not None:
            call._ended(reason)

    def link_lost(self, reason: str) -> None:
        self._server._connections.discard(self)
        channels, self._channels = self._channels, {}
        for call in channels.values():
            call._ended(reason)


def set_nodelay(transport: asyncio.BaseTransport) -> None:
    """TCP only: a 20 ms frame must not wait for the one before it to be acknowledged."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
