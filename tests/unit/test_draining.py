"""Sockets outlive the draining of their process, with the installed uvicorn and Serve."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import websockets
from ray.serve._private import replica as serve_replica
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from deployments.draining import SHUTDOWN_COROUTINE, keep_sockets_while_draining, shutdown_began


async def echo(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


@pytest.fixture(name="patched")
def fixture_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebSocketsSansIOProtocol, "shutdown", WebSocketsSansIOProtocol.shutdown)
    keep_sockets_while_draining()


async def drained(server: uvicorn.Server, sock: socket.socket) -> tuple[list[str | int], asyncio.Task[None]]:
    """Open a socket, let the server exit as Serve's drain does, and talk on. Returns what came, and its task."""
    port = sock.getsockname()[1]
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    heard: list[str | int] = []
    async with websockets.connect(f"ws://127.0.0.1:{port}/") as caller:
        await caller.send("before")
        heard.append(str(await caller.recv()))
        server.should_exit = True
        await asyncio.sleep(0.5)
        try:
            await caller.send("after")
            heard.append(str(await caller.recv()))
        except websockets.ConnectionClosed as closed:
            heard.append(closed.rcvd.code if closed.rcvd else 1006)
        assert serving.done() is isinstance(heard[-1], int)
    return heard, serving


@pytest.fixture(name="server")
def fixture_server() -> tuple[uvicorn.Server, socket.socket]:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    server = uvicorn.Server(uvicorn.Config(echo, lifespan="off", access_log=False, log_config=None))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    return server, sock


async def test_without_us_a_draining_server_cuts_its_sockets(server: tuple[uvicorn.Server, socket.socket]) -> None:
    """If this fails, uvicorn has changed, and what `deployments.draining` mends may not be broken any more."""
    heard, serving = await drained(*server)
    assert heard == ["before", 1012]
    await asyncio.wait_for(serving, 5)


async def test_an_open_socket_talks_on_and_the_server_waits_for_it(
    server: tuple[uvicorn.Server, socket.socket], patched: None
) -> None:
    heard, serving = await drained(*server)
    assert heard == ["before", "after"]
    await asyncio.wait_for(serving, 5)


async def test_a_replica_knows_that_it_is_shutting_down() -> None:
    assert not shutdown_began()

    async def _perform_graceful_shutdown() -> None:
        await asyncio.sleep(30)

    shutdown = asyncio.create_task(_perform_graceful_shutdown())
    assert shutdown_began()
    shutdown.cancel()
    # The name is Serve's: this is the coroutine which every replica runs as a task of its own loop.
    assert inspect.iscoroutinefunction(getattr(serve_replica.Replica, SHUTDOWN_COROUTINE))
