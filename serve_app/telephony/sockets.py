"""The caller's WebSocket at the server: one interface, `MediaPort`, over any ASGI server or over uvicorn directly.

`direct_socket` is the fast one: frames cross neither queues nor tasks. `AsgiSocket` works behind every ASGI server,
such as Serve's Python proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from serve_app.telephony.base import MediaPort, MediaSink, WireMessage

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

EXTENSION = "parley.direct_socket"
"""Where a server that runs our protocol puts it in the ASGI scope's `extensions`."""

MAX_MESSAGE_BYTES = 1 << 16
"""A frame of 20 ms has at most 960 bytes, a control message a few hundred."""

LAST_MESSAGE_TIMEOUT_S = 0.5
CLOSE_TIMEOUT_S = 2.0
"""How long a caller's socket that does not read may hold up the end of its call."""


class CallerSocket(MediaPort, Protocol):
    """A WebSocket that a phone network opened. `accept` first; the sink hears everything from then on."""

    @property
    def dropped(self) -> int:
        """Frames of audio that a slow caller's socket cost."""
        ...

    async def accept(self, sink: MediaSink) -> None:
        """Complete the handshake. The sink may be called before this returns."""
        ...

    def close(self, reason: str, code: int = 1000) -> None:
        """Send what is queued, then the close frame. Idempotent. The sink hears `media_closed` once, from here."""
        ...

    async def ended(self) -> None:
        """Until the socket is over. A server keeps a socket for as long as its handler runs."""
        ...


class OutQueue:
    """Messages that wait for a slow reader: the oldest audio is dropped first (counted), text never."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: deque[WireMessage] = deque()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: WireMessage) -> bool:
        """False when text alone fills the queue: text must not be lost in silence."""
        if len(self._messages) >= self._limit and not self._drop_oldest_audio():
            return False
        self._messages.append(message)
        return True

    def pop(self) -> WireMessage:
        return self._messages.popleft()

    def _drop_oldest_audio(self) -> bool:
        for index, queued in enumerate(self._messages):
            if isinstance(queued, bytes):
                del self._messages[index]
                self.dropped += 1
                return True
        return False


def caller_socket(scope: Scope, receive: Receive, send: Send, *, limit: int) -> CallerSocket:
    """The socket of an ASGI WebSocket scope whose `websocket.connect` was received. `limit`: messages queued for it."""
    direct = (scope.get("extensions") or {}).get(EXTENSION)
    if direct is not None:
        direct.limit_queue(limit)
        socket: CallerSocket = direct
        return socket
    return AsgiSocket(receive, send, limit)


def closed_by_caller(code: int) -> str:
    """The reason given to `MediaSink.media_closed`; the code tells a hang-up from a broken line."""
    return f"the caller's socket closed with code {code}"


class AsgiSocket:
    """Implements `CallerSocket` with a reading and a writing task."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._out = OutQueue(limit)
        self._wake = asyncio.Event()
        self._closing: tuple[int, str] | None = None
        self._close = asyncio.Event()
        self._sink: MediaSink | None = None
        self._closed = False

    @property
    def dropped(self) -> int:
        return self._out.dropped

    async def accept(self, sink: MediaSink) -> None:
        self._sink = sink
        await self._send({"type": "websocket.accept"})

    def send(self, *messages: WireMessage) -> None:
        if self._closing is not None:
            return
        for message in messages:
            if not self._out.put(message):
                self.close("the caller's socket does not read")
                return
        self._wake.set()

    def close(self, reason: str, code: int = 1000) -> None:
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()
            self._close.set()

    async def ended(self) -> None:
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        closing = asyncio.create_task(self._close.wait())
        tasks: set[asyncio.Task[Any]] = {reading, writing, closing}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and not writing.done():
                # What is queued still goes out, but a socket that takes nothing must not hold up the end.
                await asyncio.wait({reading, writing}, timeout=CLOSE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if self._closing is None and not reading.done():
                # The writer found the socket gone; how it went is with the reader.
                await asyncio.wait({reading}, timeout=LAST_MESSAGE_TIMEOUT_S)
        except asyncio.CancelledError:
            # Serve cancels the handler when the socket ends, often before the message that says how (the callee hung
            # up, or the line broke) is read.
            await asyncio.wait({reading}, timeout=LAST_MESSAGE_TIMEOUT_S)
            raise
        finally:
            self._tell(closed_by_caller(1006))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        assert self._sink is not None
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._tell(closed_by_caller(message.get("code", 1006)))
                return
            data: WireMessage | None = message.get("bytes")
            data = message.get("text") or "" if data is None else data
            if len(data) > MAX_MESSAGE_BYTES:
                self.close(f"the caller's socket sent a message of {len(data)} characters or bytes", 1009)
                return
            if not self._closed:
                self._sink.media_received(data)

    async def _write(self) -> None:
        # OSError and RuntimeError: the server's ways to say that the socket closed meanwhile, or before.
        with contextlib.suppress(OSError, RuntimeError):
            while True:
                while self._out:
                    message = self._out.pop()
                    key = "bytes" if isinstance(message, bytes) else "text"
                    await self._send({"type": "websocket.send", key: message})
                if self._closing is not None:
                    code, reason = self._closing
                    await self._send({"type": "websocket.close", "code": code, "reason": reason[:100]})
                    return
                self._wake.clear()
                await self._wake.wait()

    def _tell(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            if self._sink is not None:
                # Servers also report a disconnect for a close of ours.
                self._sink.media_closed(reason if self._closing is None else self._closing[1])
