"""The ingress' own way in: a WebSocket listener whose calls pass neither Serve's proxy nor its reloads.

The same ASGI application as behind Serve's port, and the same WebSocket protocol. All ingress replicas of a node listen
at one port (SO_REUSEPORT): the kernel spreads new connections over them, and in a roll-over the new replica listens
before the old one stops.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from asyncio import BaseTransport, Transport
from collections.abc import Awaitable, Callable
from typing import Any, cast

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from serve_app.errors import SettingsError
from serve_app.telephony.direct_socket import DirectProtocol
from serve_app.telephony.sockets import Receive, Scope, Send

REQUEST_TIMEOUT_S = 10.0
"""The longest that a connection may take to ask for a call: whoever opens one may be anybody."""

BACKLOG = 1024
NO_DESCRIPTOR_PAUSE_S = 1.0
WAIT_S = 0.1

App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger()


class _Opening(H11Protocol):
    """uvicorn's HTTP side of a connection, until it is a call. h11, unlike httptools, bounds the request's size."""

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Transport, transport))
        self._deadline = self.loop.call_later(REQUEST_TIMEOUT_S, self.transport.abort)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._deadline.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        super().connection_lost(exc)


class MediaListener:
    """Accepts media sockets for `app` from `open` to `close`; what was accepted goes on until it is over."""

    def __init__(self, app: App, *, host: str, port: int) -> None:
        """`port` 0 takes a free one."""
        self._app = app
        self._host = host
        self._port = port
        self._listening: socket.socket | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[Any]] = set()
        self._state = ServerState()
        self._config = uvicorn.Config(
            self._call,
            interface="asgi3",
            http=_Opening,
            ws=DirectProtocol,
            ws_per_message_deflate=False,  # audio does not shrink
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        self.sockets = 0
        """Media sockets that are open, or being admitted."""

    @property
    def port(self) -> int:
        assert self._listening is not None, "open first"
        return int(self._listening.getsockname()[1])

    def open(self) -> None:
        """Listen. Raises SettingsError when the port cannot be had."""
        self._config.load()
        # Its lines name paths, and so one-time tokens where `media_auth` is `path`; errors are logged by `_call`.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        listening = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind((self._host, self._port))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            raise SettingsError(
                f"server.media_port: no media listener at {self._host} port {self._port} ({error.strerror}); stop what "
                "holds the port, or set MEDIA_PORT to one that is free on every node (and server.media_url and the "
                "load balancer with it)"
            ) from error
        self._listening = listening
        asyncio.get_running_loop().add_reader(listening, self._accept)

    def close(self) -> None:
        """Refuse new connections. Idempotent.

        Those that the kernel holds ready are taken first: with the listener it would reset them. What is left is a
        connection whose handshake is under way in this very moment; `net.ipv4.tcp_migrate_req=1` hands it to another
        replica's listener (Linux 5.14, ip-sysctl).
        """
        listening = self._listening
        if listening is None:
            return
        asyncio.get_running_loop().remove_reader(listening)
        if self._paused is not None:
            self._paused.cancel()
        self._accept()
        self._listening = None
        listening.close()

    async def drained(self) -> None:
        """Until everything that was accepted is over, however long that takes."""
        while self._arriving or self._state.connections or self._state.tasks:  # noqa: ASYNC110  nor does uvicorn
            await asyncio.sleep(WAIT_S)

    def _accept(self) -> None:
        """Take every connection that waits."""
        assert self._listening is not None
        while True:
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue  # it went away while it waited
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.error("no media socket can be accepted", error=error.strerror)
                self._pause()
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            arriving = asyncio.get_running_loop().create_task(self._begin(connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)

    def _pause(self) -> None:
        """The listener stays readable while nothing can be accepted: looking at it all the time would take a core."""
        loop, listening = asyncio.get_running_loop(), self._listening
        assert listening is not None
        loop.remove_reader(listening)
        self._paused = loop.call_later(NO_DESCRIPTOR_PAUSE_S, loop.add_reader, listening, self._accept)

    async def _begin(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: _Opening(self._config, self._state, {}, loop), connection)
        except OSError:
            connection.close()  # it is gone already

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = scope["type"] == "websocket"
        self.sockets += call
        try:
            await self._app(scope, receive, send)
        except OSError:
            raise  # the caller is gone; uvicorn expects it
        except Exception:
            log.exception("a media socket failed")
            raise
        finally:
            self.sockets -= call
