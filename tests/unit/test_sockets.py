"""The caller's socket, over plain ASGI and over uvicorn's transport: the same promises on both."""

from __future__ import annotations

import asyncio
import random
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from serve_app.telephony import direct_socket
from serve_app.telephony.base import WireMessage
from serve_app.telephony.sockets import (
    AsgiSocket,
    CallerSocket,
    OutQueue,
    Receive,
    Scope,
    Send,
    caller_socket,
)

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Kind = Literal["direct", "asgi"]
FRAME = bytes(range(256)) * 2 + bytes(128)


class Far:
    """The sink: what came from the caller, and how the socket ended."""

    def __init__(self) -> None:
        self.got: list[WireMessage] = []
        self.closed: list[str] = []
        self.changed = asyncio.Event()
        self.socket: CallerSocket | None = None
        self.on_message: Callable[[WireMessage], None] = lambda message: None
        self.before_accept: Callable[[CallerSocket], None] = lambda socket: None
        self.handlers: set[asyncio.Task[Any]] = set()

    def media_received(self, message: WireMessage) -> None:
        self.got.append(message)
        self.on_message(message)
        self.changed.set()

    def media_closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        self.socket = caller_socket(scope, receive, send, limit=50)
        self.before_accept(self.socket)
        await self.socket.accept(self)
        self.changed.set()
        await self.socket.ended()


@asynccontextmanager
async def server_of(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], kind: Kind
) -> AsyncIterator[tuple[str, Any]]:
    ws: Any = direct_socket.DirectProtocol if kind == "direct" else "websockets-sansio"
    server = uvicorn.Server(uvicorn.Config(app, ws=ws, interface="asgi3", log_level="critical", lifespan="off"))
    with sockets.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        serving = asyncio.create_task(server._serve([listening]))
        while not server.started:  # noqa: ASYNC110  uvicorn offers no event
            await asyncio.sleep(0.005)
        try:
            yield f"ws://127.0.0.1:{listening.getsockname()[1]}/", server
        finally:
            server.should_exit = True
            await asyncio.wait_for(serving, 10)


@pytest.fixture(params=["direct", "asgi"])
async def far(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Far, str, Any]]:
    far = Far()
    async with server_of(far.app, request.param) as (uri, server):
        yield far, uri, server
    expected = direct_socket.DirectSocket if request.param == "direct" else AsgiSocket
    assert far.socket is None or isinstance(far.socket, expected)


def dial(uri: str, **options: Any) -> connect:
    return connect(uri, proxy=None, **{"compression": None, **options})


async def test_messages_of_all_kinds_pass_both_ways_in_order(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    sizes = [0, 1, 125, 126, 127, 640, 960, 65_535]
    sent: list[WireMessage] = ["connected", *(bytes([n % 256]) * size for n, size in enumerate(sizes)), "h\u00e9llo"]
    async with dial(uri) as caller:
        for message in sent:
            await caller.send(message)
        await sink.until(lambda: len(sink.got) == len(sent))
        assert sink.got == sent
        assert sink.socket is not None
        sink.socket.send(*sent)
        assert [await caller.recv() for _ in sent] == sent
    await sink.until(lambda: sink.closed)
    assert sink.closed == ["the caller's socket closed with code 1000"]


@pytest.mark.parametrize("seed", range(5))
async def test_frames_in_any_pieces_come_out_whole(far: tuple[Far, str, Any], seed: int) -> None:
    """TCP cuts where it likes; control frames and fragments lie between the audio."""
    sink, uri, _ = far
    rng = random.Random(seed)
    expected: list[WireMessage] = []
    stream = bytearray()

    def frame(first: int, payload: bytes) -> None:
        mask = rng.randbytes(4)
        size = bytes((0x80 | len(payload),)) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        stream.extend(bytes((first,)) + size + mask + masked)

    for number in range(60):
        payload = rng.randbytes(rng.choice([0, 3, 640, 640, 640]))
        match rng.randrange(6):
            case 0:
                frame(0x89, b"ping")
            case 1:
                frame(0x81, b"text %d" % number)
                expected.append(f"text {number}")
            case 2:
                frame(0x02, payload)
                frame(0x89, b"between")
                frame(0x80, b"tail")
                expected.append(payload + b"tail")
            case _:
                frame(0x82, payload)
                expected.append(payload)
    async with dial(uri, ping_interval=None) as caller:
        while stream:
            size = rng.choice([1, 2, 5, 7, 100, 646, 648, 5000])
            caller.transport.write(bytes(stream[:size]))
            del stream[:size]
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        await sink.until(lambda: len(sink.got) >= len(expected))
        assert sink.got == expected


async def test_a_close_sends_what_is_queued_and_tells_the_sink_once(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri) as caller:
        await sink.until(lambda: sink.socket)
        assert sink.socket is not None
        sink.socket.send(FRAME, "last")
        sink.socket.close("the call is over", 1000)
        sink.socket.close("again")
        sink.socket.send(FRAME)
        assert [await caller.recv(), await caller.recv()] == [FRAME, "last"]
        with pytest.raises(ConnectionClosed):
            await caller.recv()
        assert (caller.close_code, caller.close_reason) == (1000, "the call is over")
    await sink.until(lambda: sink.closed)
    assert sink.closed == ["the call is over"]


async def test_a_close_before_the_handshake_ends_closes_right_after_it(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    sink.before_accept = lambda socket: socket.close("session lost", 1011)
    async with dial(uri) as caller:
        with pytest.raises(ConnectionClosed):
            await caller.recv()
        assert caller.close_code == 1011
    await sink.until(lambda: sink.closed)
    assert sink.closed == ["session lost"]


async def test_a_line_that_breaks_is_not_a_hang_up(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri) as caller:
        await caller.send(FRAME)
        await sink.until(lambda: sink.got)
        caller.transport.abort()
        await sink.until(lambda: sink.closed)
    assert len(sink.closed) == 1 and sink.closed[0] in {
        "the caller's socket closed with code 1006",
        "the caller's socket closed with code 1005",  # what uvicorn tells an ASGI application
    }


async def test_a_message_that_is_too_big_ends_the_socket(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri) as caller:
        await caller.send(bytes(70_000))
        with pytest.raises(ConnectionClosed):
            await caller.recv()
        assert caller.close_code == 1009
    await sink.until(lambda: sink.closed)
    assert not sink.got and len(sink.closed) == 1


async def test_a_frame_without_a_mask_is_a_protocol_error(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri) as caller:
        caller.transport.write(b"\x82\x02ab")
        with pytest.raises(ConnectionClosed):
            await caller.recv()
        assert caller.close_code == 1002
    await sink.until(lambda: sink.closed)
    assert not sink.got


async def test_a_socket_that_does_not_read_loses_audio_and_never_text(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri, max_queue=1) as caller:
        await sink.until(lambda: sink.socket)
        assert sink.socket is not None
        caller.transport.pause_reading()
        frames = 0
        while not sink.socket.dropped and frames < 50_000:
            sink.socket.send(FRAME)
            frames += 1
            if frames % 100 == 0:
                await asyncio.sleep(0)
        assert sink.socket.dropped, "the queue has a bound"
        sink.socket.send("clear")
        caller.transport.resume_reading()
        received = 0
        async with asyncio.timeout(30):
            while await caller.recv() != "clear":
                received += 1
        assert received == frames - sink.socket.dropped


async def test_text_alone_that_is_not_read_closes_the_socket(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri, max_queue=1) as caller:
        await sink.until(lambda: sink.socket)
        assert sink.socket is not None
        caller.transport.pause_reading()
        for number in range(20_000):
            sink.socket.send("x" * 1000)
            if number % 100 == 0:
                await asyncio.sleep(0)
            if sink.closed:
                break
        await sink.until(lambda: sink.closed)
        assert sink.closed == ["the caller's socket does not read"]
        caller.transport.abort()


@pytest.mark.parametrize("kind", ["direct", "asgi"])
async def test_a_server_that_stops_waits_for_its_open_calls(kind: Kind) -> None:
    """Serve stops the server of an ingress replica that drains. uvicorn alone cuts what is open."""
    far = Far()
    async with server_of(far.app, kind) as (uri, server):
        caller: ClientConnection = await dial(uri)
        await far.until(lambda: far.socket)
        server.should_exit = True
        await asyncio.sleep(0.5)
        with pytest.raises(OSError):  # the listener is closed
            await dial(uri)
        if kind == "asgi":
            await caller.wait_closed()
            assert caller.close_code == 1012
        else:
            await caller.send(FRAME)
            await far.until(lambda: far.got == [FRAME])
            far.socket.send("still here")
            assert await caller.recv() == "still here"
            await caller.close()
    assert len(far.closed) == 1


async def test_deflate_that_the_caller_asked_for_is_undone(far: tuple[Far, str, Any]) -> None:
    sink, uri, _ = far
    async with dial(uri, compression="deflate") as caller:
        await caller.send(FRAME)
        await caller.send("text " * 100)
        await sink.until(lambda: len(sink.got) == 2)
        assert sink.got == [FRAME, "text " * 100]


async def test_an_application_that_wants_plain_asgi_gets_it_from_our_protocol() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": message["bytes"]})

    async with server_of(echo, "direct") as (uri, _), dial(uri) as caller:
        for _ in range(3):
            await caller.send(FRAME)
            assert await caller.recv() == FRAME


def test_the_queue_keeps_its_bound() -> None:
    queue = OutQueue(5)
    assert all(queue.put(bytes([number])) for number in range(10))
    assert [queue.pop() for _ in range(5)] == [bytes([number]) for number in range(5, 10)] and queue.dropped == 5
    assert all(queue.put("text") for _ in range(5)) and not queue.put("one too many")
