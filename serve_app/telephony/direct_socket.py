"""The caller's WebSocket without queues and tasks: uvicorn's WebSocket protocol, with a short way for audio frames.

uvicorn does the handshake, control frames, fragments and keep-alive. A whole binary frame, which is what a phone
network sends 50 times a second, is unmasked and handed to the sink right where it was read; what is sent goes straight
to the transport. uvicorn's own way costs two queues, two task switches and two calls of `epoll_ctl` a frame (it pauses
reading after every message).
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn.config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from serve_app.telephony.base import MediaSink, WireMessage
from serve_app.telephony.sockets import CLOSE_TIMEOUT_S, EXTENSION, MAX_MESSAGE_BYTES, OutQueue, closed_by_caller

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled extension on this platform
    from websockets.utils import apply_mask

# RFC 6455, 5.2: FIN and the opcode, no extension bits; then the mask bit and a length, 126 and 127 for longer ones.
_TEXT, _BINARY = 0x81, 0x82
_MASKED = 0x80
_MASKED_16_BITS = _MASKED | 126
_MASKED_64_BITS = _MASKED | 127


def install() -> None:
    """Let every uvicorn server of this process speak `DirectProtocol`: Serve starts its own, and passes no option."""
    uvicorn.config.WS_PROTOCOLS["auto"] = f"{__name__}:DirectProtocol"


def encode(message: WireMessage) -> bytes:
    """One unmasked, unfragmented server frame."""
    payload, first = (message.encode(), _TEXT) if isinstance(message, str) else (message, _BINARY)
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 1 << 16:
        return bytes((first, 126, size >> 8, size & 0xFF)) + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


class DirectProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol until a `DirectSocket` is accepted on it; plain ASGI for applications that want no such."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._direct: DirectSocket | None = None
        self._partial = b""

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The application's task has not run yet.
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = DirectSocket(self)

    def take(self, socket: DirectSocket) -> None:
        """From here on messages go to the socket's sink. Before the handshake's answer."""
        self._direct = socket

    def data_received(self, data: bytes) -> None:
        direct = self._direct
        if direct is None:
            super().data_received(data)
            return
        if self._partial:
            data = self._partial + data
        at, end = 0, len(data)
        while end - at >= 2 and not self.close_sent:
            size = data[at + 1]
            body = at + 6
            if size == _MASKED_16_BITS:
                if end - at < 4:
                    break
                size, body = data[at + 2] << 8 | data[at + 3], at + 8
            elif _MASKED <= size < _MASKED_16_BITS:
                size -= _MASKED
            else:
                self._fail(*((1009, "message too big") if size == _MASKED_64_BITS else (1002, "frame is not masked")))
                return
            stop = body + size
            if stop > end:
                break
            if data[at] == _BINARY:
                direct.received(apply_mask(data[body:stop], data[body - 4 : body]))
            else:
                # The parser only ever sees whole frames, so it is at a boundary here.
                super().data_received(data[at:stop])
            at = stop
        if self.close_sent:
            # Only the caller's own close frame still matters.
            super().data_received(data[at:])
            self._partial = b""
        else:
            self._partial = data[at:]

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()
        if self._direct is not None:
            self._direct.over(f"the caller's socket was closed: {reason}")

    # --- what uvicorn's own code calls -------------------------------------------------------------------------------

    def send_receive_event_to_app(self) -> None:
        if self._direct is None:
            super().send_receive_event_to_app()
            return
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        if len(data) > MAX_MESSAGE_BYTES:
            self._fail(1009, "message too big")
        else:
            self._direct.received(data.decode("utf-8", "replace") if self.curr_msg_data_type == "text" else data)

    def handle_close(self, event: Frame) -> None:
        super().handle_close(event)
        if self._direct is not None and self.conn.close_rcvd is not None:
            self._direct.over(closed_by_caller(self.conn.close_rcvd.code))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._direct is not None:
            self._direct.over(closed_by_caller(1006))
            # Socket and protocol hold each other: an ended call is freed at once, without the collector.
            self.scope["extensions"].pop(EXTENSION, None)
            self._direct = None

    def shutdown(self) -> None:
        """The server stops: an open call stays, and the server waits for it.

        uvicorn would close every socket with 1012, and Serve stops the server of a draining replica behind HAProxy
        once `RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S` is over, when it means to close the listener only (Ray
        2.60, `_drain_behind_haproxy`). What now bounds a call there is `graceful_shutdown_timeout_s`.
        """
        if self._direct is not None and self.handshake_complete and not self.close_sent:
            return
        super().shutdown()
        if self._direct is not None:
            self._direct.over("the server stops")

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._direct is not None:
            self._direct.flush()


class DirectSocket:
    """Implements `CallerSocket` on a `DirectProtocol`."""

    def __init__(self, protocol: DirectProtocol) -> None:
        self._protocol = protocol
        self._sink: MediaSink | None = None
        self._waiting = OutQueue(0)
        self._early_close: tuple[str, int] | None = None
        self._over: asyncio.Future[None] = protocol.loop.create_future()

    @property
    def dropped(self) -> int:
        return self._waiting.dropped

    def limit_queue(self, limit: int) -> None:
        self._waiting = OutQueue(limit)

    async def accept(self, sink: MediaSink) -> None:
        protocol = self._protocol
        self._sink = sink
        protocol.take(self)
        await protocol.send({"type": "websocket.accept"})
        if protocol.conn.reader.buffer:
            self.close("the caller's socket sent data before the handshake's answer", 1002)
        if self._early_close is not None:
            self.close(*self._early_close)

    def send(self, *messages: WireMessage) -> None:
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected:
            return
        if self._waiting or not protocol.writable.is_set():
            for message in messages:
                if not self._waiting.put(message):
                    self.close("the caller's socket does not read")
                    return
            return
        # One write, and so one packet, for a burst.
        protocol.transport.write(b"".join(map(encode, messages)) if len(messages) > 1 else encode(messages[0]))

    def close(self, reason: str, code: int = 1000) -> None:
        protocol = self._protocol
        if not protocol.handshake_complete:
            self._early_close = (reason, code)
            return
        if protocol.close_sent or protocol.disconnected:
            return
        self.flush()
        protocol.conn.send_close(code, reason.encode()[:100].decode(errors="ignore"))
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))
        protocol.close_sent = True
        protocol.close_timer = protocol.loop.call_later(CLOSE_TIMEOUT_S, protocol.transport.abort)
        self._tell(reason)

    async def ended(self) -> None:
        await asyncio.shield(self._over)

    # --- called by the protocol -------------------------------------------------------------------------------------

    def received(self, message: WireMessage) -> None:
        if self._sink is not None:
            self._sink.media_received(message)

    def flush(self) -> None:
        while self._waiting:
            self._protocol.transport.write(encode(self._waiting.pop()))

    def over(self, reason: str) -> None:
        """The socket is gone, or as good as gone."""
        self._tell(reason)
        if not self._over.done():
            self._over.set_result(None)

    def _tell(self, reason: str) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.media_closed(reason)
