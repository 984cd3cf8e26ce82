"""The bare server: `ws://127.0.0.1:PORT/ws` is a call, `GET /lag` the loop's lag over the last seconds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from load_tests.bare.records import Records
from serve_app import garbage
from serve_app.clock import SystemClock
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lines import LineCache
from serve_app.conversation.session import CallSession
from serve_app.errors import ParleyError
from serve_app.loop_lag import LoopLag
from serve_app.providers.base import Providers
from serve_app.providers.registry import make_providers
from serve_app.settings import Settings
from serve_app.store.objects import ObjectStore
from serve_app.telephony.sockets import CallerSocket, Receive, Scope, Send, caller_socket
from serve_app.telephony.vonage.wire import VonageLeg

log = structlog.get_logger()


class SocketControl:
    """Implements `CallControl`: without a REST interface, hanging up is closing the call's own socket."""

    def __init__(self, socket: CallerSocket) -> None:
        self._socket = socket

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        self._socket.close("the agent hung up")


class BareServer:
    """The ASGI application. Every socket is one call, in a session of its own, all in one process and one loop."""

    def __init__(self, settings: Settings, agent: AgentDefinition, data_dir: Path) -> None:
        self._settings = settings
        self._agent = agent
        self._data_dir = data_dir
        self._lines = LineCache()
        self._lag = LoopLag()
        self._records: Records | None = None
        self._providers: Providers | None = None
        self._objects = ObjectStore.open(None, data_dir)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._call(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            lag = scope["path"] == "/lag"
            body = json.dumps(self._measured() if lag else {"ready": True}).encode()
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    def _measured(self) -> dict[str, float]:
        return {"lag_p95_ms": self._lag.percentile_ms(0.95), "lag_max_ms": self._lag.max_ms}

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    self._records = await Records.open(self._data_dir, self._agent)
                    self._providers = make_providers(self._settings)
                except ParleyError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                self._lag.start()
                garbage.settle()
                await send({"type": "lifespan.startup.complete"})
            else:
                self._lag.stop()
                if self._records is not None:
                    await self._records.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._records is not None and self._providers is not None
        await receive()  # websocket.connect
        socket = caller_socket(scope, receive, send, limit=self._settings.link.queue_messages)
        lease = await self._records.new_call()
        session = CallSession(
            lease=lease,
            leg=VonageLeg(self._settings.telephony.vonage.sample_rate_hz),
            port=socket,
            providers=self._providers,
            journal=self._records.journal,
            parts=self._objects,
            control=SocketControl(socket),
            settings=self._settings.call,
            clock=SystemClock(),
            lines=self._lines,
        )
        # Accepting binds the sink: the first text frame must not be missed.
        await socket.accept(session)
        # A task of its own: uvicorn may cancel a handler whose client hung up, and the session must end in order.
        talk = asyncio.create_task(session.run())
        try:
            await socket.ended()
        finally:
            await asyncio.shield(talk)


def asgi(server: BareServer) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """A function: uvicorn takes a bound method for an ASGI 2 application."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await server.app(scope, receive, send)

    return app
