"""The ingress' own listener: what it takes, when it refuses, and that nothing which it took is cut."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

import deployments.media_listener as listener_module
from deployments.draining import SHUTDOWN_COROUTINE, until_refusing
from deployments.media_listener import MediaListener
from serve_app.errors import SettingsError
from serve_app.telephony.base import WireMessage
from serve_app.telephony.direct_socket import DirectSocket
from serve_app.telephony.sockets import Receive, Scope, Send, caller_socket


class Echo:
    """An application that answers every frame with itself. `admit` holds new calls back while it is cleared."""

    def __init__(self) -> None:
        self.admit = asyncio.Event()
        self.admit.set()
        self.kinds: list[type] = []
        self.over = 0

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 426, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await receive()
        if scope["path"] == "/broken":
            raise ValueError("a fault of the application")
        await self.admit.wait()
        caller = caller_socket(scope, receive, send, limit=50)
        self.kinds.append(type(caller))

        class Sink:
            def media_received(self, message: WireMessage) -> None:
                caller.send(message)

            def media_closed(self, reason: str) -> None:
                pass

        await caller.accept(Sink())
        await caller.ended()
        self.over += 1


@pytest.fixture(name="echo")
async def fixture_echo() -> Echo:
    return Echo()


@pytest.fixture(name="listener")
async def fixture_listener(echo: Echo) -> AsyncIterator[MediaListener]:
    listener = MediaListener(echo.app, host="127.0.0.1", port=0)
    listener.open()
    yield listener
    listener.close()
    await asyncio.wait_for(listener.drained(), 5)


def dial(port: int, path: str = "media/call-1") -> connect:
    return connect(f"ws://127.0.0.1:{port}/{path}", proxy=None, compression=None)


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def echoes(call: ClientConnection) -> bool:
    await call.send(bytes(640))
    return await asyncio.wait_for(call.recv(), 5) == bytes(640)


async def test_a_call_has_the_short_way_and_counts_while_it_lasts(echo: Echo, listener: MediaListener) -> None:
    async with dial(listener.port) as call:
        assert await echoes(call)
        assert listener.sockets == 1
    await until(lambda: listener.sockets == 0)
    assert echo.kinds == [DirectSocket]


async def test_closing_refuses_new_connections_and_keeps_open_calls(echo: Echo, listener: MediaListener) -> None:
    port = listener.port
    async with dial(port) as call:
        assert await echoes(call)
        listener.close()
        listener.close()
        draining = asyncio.create_task(listener.drained())
        with pytest.raises(ConnectionRefusedError):
            await dial(port)
        await asyncio.sleep(3 * listener_module.WAIT_S)
        assert await echoes(call) and not draining.done()
    await asyncio.wait_for(draining, 5)
    assert echo.over == 1


async def test_what_waits_in_the_kernel_is_taken_before_the_listener_closes(listener: MediaListener) -> None:
    """The listener's loop has not run since they connected: closing the socket alone would reset them."""
    waiting = []
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", listener.port))
        connection.setblocking(False)
        waiting.append(connection)
    listener.close()
    calls = [await connect("ws://127.0.0.1/media/x", sock=one, proxy=None, compression=None) for one in waiting]
    assert all([await echoes(call) for call in calls])
    assert listener.sockets == len(calls)
    await asyncio.gather(*(call.close() for call in calls))


async def test_a_call_that_is_being_admitted_is_waited_for(echo: Echo, listener: MediaListener) -> None:
    echo.admit.clear()
    dialling = asyncio.create_task(contextlib.AsyncExitStack().enter_async_context(dial(listener.port)))
    await until(lambda: listener.sockets == 1)
    listener.close()
    draining = asyncio.create_task(listener.drained())
    await asyncio.sleep(3 * listener_module.WAIT_S)
    assert not draining.done()
    echo.admit.set()
    call = await dialling
    assert await echoes(call)
    await call.close()
    await asyncio.wait_for(draining, 5)


async def test_a_new_replica_takes_over_the_port_while_the_old_one_drains(echo: Echo, listener: MediaListener) -> None:
    port, newer = listener.port, Echo()
    async with dial(port) as old_call:
        assert await echoes(old_call)
        second = MediaListener(newer.app, host="127.0.0.1", port=port)
        second.open()
        listener.close()
        async with dial(port) as new_call:
            assert await echoes(new_call) and await echoes(old_call)
        second.close()
        await asyncio.wait_for(second.drained(), 5)
    assert (len(echo.kinds), len(newer.kinds)) == (1, 1)


async def test_a_port_that_is_taken_is_an_error_that_names_the_setting(echo: Echo) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"server\.media_port.* port {port} .*MEDIA_PORT"):
            MediaListener(echo.app, host="127.0.0.1", port=port).open()


async def test_whoever_asks_for_nothing_is_dropped(
    echo: Echo, listener: MediaListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "REQUEST_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET /media/x HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    # The deadline is for the request: a call goes on beyond it.
    async with dial(listener.port) as call:
        await asyncio.sleep(0.1)
        assert await echoes(call)


async def test_a_plain_request_is_answered_and_does_not_hold_the_drain(listener: MediaListener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"GET /media HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 426 ")
    assert listener.sockets == 0
    writer.close()


async def test_a_fault_of_the_application_ends_its_call_only(listener: MediaListener) -> None:
    async with dial(listener.port) as call:
        with pytest.raises(InvalidStatus, match="500"):
            await dial(listener.port, "broken")
        assert await echoes(call)


async def test_a_lack_of_descriptors_pauses_the_listener(
    listener: MediaListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "NO_DESCRIPTOR_PAUSE_S", 0.05)
    asked = 0

    class Exhausted:
        def accept(self) -> Any:
            nonlocal asked
            asked += 1
            raise OSError(errno.EMFILE, "Too many open files")

        def fileno(self) -> int:
            return real.fileno()

    assert listener._listening is not None
    real = listener._listening
    monkeypatch.setattr(listener, "_listening", Exhausted())
    listener._accept()
    monkeypatch.setattr(listener, "_listening", real)
    assert asked == 1
    async with dial(real.getsockname()[1]) as call:
        assert await echoes(call)


async def test_a_draining_replica_refuses_after_the_draining_period() -> None:
    refusing = asyncio.create_task(until_refusing(0.05, poll_s=0.01))
    await asyncio.sleep(0.1)
    assert not refusing.done()

    async def _perform_graceful_shutdown() -> None:
        await asyncio.sleep(30)

    assert _perform_graceful_shutdown.__name__ == SHUTDOWN_COROUTINE
    shutdown = asyncio.create_task(_perform_graceful_shutdown())
    await asyncio.wait_for(refusing, 5)
    shutdown.cancel()
