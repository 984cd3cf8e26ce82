"""Hand an accepted WebSocket request of aiohttp over to a listener that is called back per frame.

A stream of audio costs a queue, a future and a task switch per message on aiohttp's own WebSocket; a stand-in that
hears hundreds of calls cannot afford them. Routing, headers and refusals stay aiohttp's.
"""

from __future__ import annotations

import logging
from typing import Any

import picows
from aiohttp import web
from picows.picows import WSProtocol  # type: ignore[attr-defined]

_log = logging.getLogger("picows.server")
_HANDSHAKE_TIMEOUT_S = 5.0
_MAX_FRAME_BYTES = 1 << 20


class _Handed(WSProtocol):  # type: ignore[misc]
    """Tells aiohttp's protocol, too, when the connection is gone: its handler and its shutdown depend on that."""

    before: Any = None

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.before is not None:
            self.before.connection_lost(exc)


def upgrade(request: web.Request, listener: picows.WSListener) -> None:
    """Answer the handshake and give the connection to `listener`. Its pings are the listener's to answer.

    The handler must not return before `on_ws_disconnected` was called. Raises ConnectionResetError when the client has
    gone meanwhile.
    """
    # uvloop's transports are no subclasses of asyncio's.
    transport: Any = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has gone")
    before = transport.get_protocol()
    protocol = _Handed(
        None, None, False, lambda _request: listener, _log, True, _HANDSHAKE_TIMEOUT_S,
        False, 10, 10, picows.WSAutoPingStrategy.PING_WHEN_IDLE, False, _MAX_FRAME_BYTES, None, 4096,
    )  # fmt: skip
    protocol.before = before
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    head = [f"{request.method} {request.raw_path} HTTP/1.1".encode()]
    head += [name + b": " + value for name, value in request.raw_headers]
    text = b"\r\n".join([*head, b"", b""])
    buffer = protocol.get_buffer(len(text))
    buffer[: len(text)] = text
    protocol.buffer_updated(len(text))
