"""The ingress: what becomes of a caller's socket, its slot and its session, on every way that a call can go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import RayError
from ray.serve.handle import DeploymentResponseGenerator
from websockets.asyncio.client import connect

import serve_app.telephony.sockets as sockets_module
from deployments.ingress import MediaIngress, Relay
from deployments.link.client import LinkPool
from deployments.link.server import LinkServer, ServerChannel
from deployments.media_listener import WAIT_S, MediaListener
from deployments.vitals import Vitals
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import CallLease
from serve_app.errors import UnavailableError
from serve_app.settings import LinkSettings, RedisSettings
from serve_app.telephony.base import WireMessage

NUMBER = "447700900123"
HANDSHAKE = (
    b"GET /media/call-1/token HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
AGENT = AgentDefinition(name="a", business="B", language="en", voice=None, opening="Hello.", system_prompt="Be brief.")
LEASE = CallLease(
    call_id="call-1",
    tenant_id="t",
    direction="inbound",
    carrier_call_id="uuid-1",
    from_number=NUMBER,
    to_number="447700900001",
    agent=AGENT,
    agent_version=1,
    slot_id="slot-1",
    scopes=("tenant:acme", "lines"),
)


class Live:
    """Redis as the ingress sees it."""

    def __init__(self) -> None:
        self.tokens = {"token": LEASE.model_dump_json()}
        self.held = self.free = True
        self.down = False

    async def take_media_token(self, token: str) -> str | None:
        return self.tokens.pop(token, None)

    async def keep(self, slot_id: str, ttl_s: float) -> bool:
        if self.down:
            raise UnavailableError("Redis at redis://secret-host does not answer")
        return self.held

    async def reserve(self, slot_id: str, ttl_s: float, scopes: Sequence[str]) -> bool:
        assert tuple(scopes) == LEASE.scopes, "its places come back with the slot"
        return self.free


class Stream(DeploymentResponseGenerator[Any]):
    """What Serve returns for a streaming call, without Serve."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._sessions.items()

    def cancel(self) -> None:
        self._sessions.cancelled.set()


class Sessions:
    """The handle of CallSessions, and one session behind a real link."""

    def __init__(self, server: LinkServer) -> None:
        self._server = server
        self.cancelled = asyncio.Event()
        self.leased = asyncio.Event()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refusal: Exception | None = None
        self.silent = False
        self.channel: ServerChannel | None = None
        self.got: list[WireMessage] = []
        self.closed: list[str] = []
        self.told = asyncio.Event()

    def options(self, *, stream: bool) -> Sessions:
        assert stream
        return self

    @property
    def run_call(self) -> Sessions:
        return self

    def remote(self, lease: dict[str, Any], node_id: str) -> Stream:
        self.leased.set()
        return Stream(self)

    async def items(self) -> AsyncIterator[dict[str, Any]]:
        if self.refusal is not None:
            raise self.refusal
        if self.silent:
            await asyncio.Event().wait()
        self.channel = channel = self._server.invite("call-1", 1)
        channel.bind(self)
        address = (await self._server.address(same_node=True)).model_dump()
        yield {"type": "session", "address": address, "token": channel.token, "proof": channel.proof, "epoch": 1}
        await self.over
        yield {"type": "ended", "outcome": "completed"}

    def media_received(self, message: WireMessage) -> None:
        self.got.append(message)
        self.told.set()

    def media_closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.told.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.told.clear()
                await self.told.wait()


class Workers:
    """The handle of Workers: what was reported."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, str, str]] = []
        self.told = asyncio.Event()

    @property
    def call_lost(self) -> Workers:
        return self

    async def remote(self, lease: dict[str, Any], outcome: str, detail: str) -> None:
        self.reports.append((lease["call_id"], outcome, detail))
        self.told.set()

    async def report(self) -> tuple[str, str, str]:
        async with asyncio.timeout(30):
            await self.told.wait()
        return self.reports[0]


class Peer:
    """The ASGI server's side of one socket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue(100)
        self.incoming.put_nowait({"type": "websocket.connect"})
        self.sent: list[dict[str, Any]] = []
        self.on_send: Callable[[dict[str, Any]], Awaitable[None]] | None = None
        self.changed = asyncio.Event()

    async def send(self, message: Any) -> None:
        if self.on_send is not None:
            await self.on_send(message)
        self.sent.append(message)
        self.changed.set()

    async def until_sent(self, kind: str) -> None:
        async with asyncio.timeout(30):
            while not any(message["type"] == kind for message in self.sent):
                self.changed.clear()
                await self.changed.wait()

    def says(self, **message: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", **message})

    def hangs_up(self, code: int = 1000) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": code})

    @property
    def status(self) -> int | None:
        starts = [message for message in self.sent if message["type"] == "websocket.http.response.start"]
        return starts[0]["status"] if starts else None


class Platform:
    def __init__(self, server: LinkServer, pool: LinkPool) -> None:
        self.live, self.sessions, self.workers, self.peer = Live(), Sessions(server), Workers(), Peer()
        link, redis = LinkSettings(attach_timeout_s=0.3, queue_messages=50), RedisSettings()
        deployment: Any = MediaIngress
        # The class as it is written, without what Serve wraps around it.
        replica: Any = object.__new__(deployment.func_or_class.__mro__[1])
        replica._settings = SimpleNamespace(link=link, redis=redis)
        replica._listener = None
        replica._workers = self.workers
        replica._live, replica._sessions, replica._links = self.live, self.sessions, pool
        replica._node_id, replica._background = "node", set()
        replica._vitals = Vitals(cast(Any, self.live), "ingress", "a replica")
        self.replica = replica

    def socket(self, path: str = "/media/call-1", token: str | None = "token") -> asyncio.Task[None]:
        headers = [(b"authorization", f"Bearer {token}".encode())] if token is not None else []
        scope = {"type": "websocket", "path": path, "headers": headers}
        return asyncio.create_task(self.replica._app(scope, self.peer.incoming.get, self.peer.send))

    def all_said(self) -> str:
        return json.dumps(self.peer.sent, default=str)


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    server, pool = LinkServer(LinkSettings()), LinkPool(LinkSettings(attach_timeout_s=0.3))
    await server.start()
    platform = Platform(server, pool)
    yield platform
    await pool.close()
    await server.close()


async def test_messages_pass_both_ways_and_a_hang_up_reaches_the_session(platform: Platform) -> None:
    handler = platform.socket()
    await platform.peer.until_sent("websocket.accept")
    platform.peer.says(text="hello", bytes=None)
    platform.peer.says(bytes=b"\x01" * 640)
    await platform.sessions.until(lambda: len(platform.sessions.got) == 2)
    assert platform.sessions.got == ["hello", b"\x01" * 640]
    assert platform.sessions.channel is not None
    platform.sessions.channel.send(b"\x02" * 640, "clear")
    await platform.peer.until_sent("websocket.send")
    platform.peer.hangs_up()
    await asyncio.wait_for(handler, 5)
    await platform.sessions.until(lambda: platform.sessions.closed)
    assert platform.sessions.closed == ["the caller's socket closed with code 1000"]
    # The session is still writing its records: its lease lives on without the socket.
    assert not platform.sessions.cancelled.is_set() and platform.replica._background
    platform.sessions.over.set_result(None)
    await asyncio.wait(platform.replica._background, timeout=5)
    assert not platform.replica._background
    assert platform.workers.reports == []


@pytest.mark.parametrize(
    ("path", "token"), [("/media/call-1", None), ("/media/call-1", "guess"), ("/media/x", "token")]
)
async def test_a_socket_without_its_token_is_refused_and_changes_nothing(
    platform: Platform, path: str, token: str | None
) -> None:
    await asyncio.wait_for(platform.socket(path, token), 5)
    assert platform.peer.status == 401
    assert not platform.sessions.leased.is_set() and platform.workers.reports == []


async def test_a_token_in_the_path_works_once(platform: Platform) -> None:
    handler = platform.socket("/media/call-1/token", None)
    await platform.peer.until_sent("websocket.accept")
    platform.peer.hangs_up()
    await asyncio.wait_for(handler, 5)
    platform.peer = Peer()
    await asyncio.wait_for(platform.socket("/media/call-1/token", None), 5)
    assert platform.peer.status == 401


async def test_without_a_slot_the_socket_is_refused_and_the_call_ended(platform: Platform) -> None:
    platform.live.held = platform.live.free = False
    await asyncio.wait_for(platform.socket(), 5)
    assert platform.peer.status == 503 and not platform.sessions.leased.is_set()
    assert await platform.workers.report() == ("call-1", "no_capacity", "no free session")


async def test_when_redis_is_away_after_the_token_the_call_is_ended_and_no_address_told(platform: Platform) -> None:
    platform.live.down = True
    await asyncio.wait_for(platform.socket(), 5)
    assert platform.peer.status == 503
    assert "secret-host" not in platform.all_said()
    assert (await platform.workers.report())[1] == "no_capacity"


async def test_a_lease_that_is_not_understood_tells_nobody_the_numbers(
    platform: Platform, capsys: pytest.CaptureFixture[str]
) -> None:
    """During a rolling update the other side may write fields that this version does not know."""
    platform.live.tokens["token"] = json.dumps({**LEASE.model_dump(mode="json"), "from_number": {"new": NUMBER}})
    await asyncio.wait_for(platform.socket(), 5)
    assert platform.peer.status == 503
    assert NUMBER not in platform.all_said() and NUMBER not in "".join(capsys.readouterr())


async def test_a_session_that_refuses_or_never_answers_frees_everything(platform: Platform) -> None:
    platform.sessions.refusal = RayError("the replica died")
    await asyncio.wait_for(platform.socket(), 5)
    assert platform.peer.status == 503
    assert (await platform.workers.report())[1] == "no_capacity"


async def test_a_session_that_never_answers_is_given_back(platform: Platform) -> None:
    platform.sessions.silent = True
    await asyncio.wait_for(platform.socket(), 5)
    assert platform.peer.status == 503
    assert (await platform.workers.report())[1] == "no_capacity"
    await asyncio.wait_for(platform.sessions.cancelled.wait(), 5)


async def test_a_caller_who_goes_before_a_session_is_there_leaves_nothing_behind(platform: Platform) -> None:
    platform.sessions.silent = True
    handler = platform.socket()
    await asyncio.wait_for(platform.sessions.leased.wait(), 5)
    await asyncio.sleep(0.01)
    handler.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handler
    await asyncio.wait_for(platform.sessions.cancelled.wait(), 5)
    assert (await platform.workers.report())[1] == "media_failure"


async def test_a_caller_who_goes_while_accepted_ends_the_session(platform: Platform) -> None:
    async def gone(message: dict[str, Any]) -> None:
        raise OSError("client disconnected")

    platform.peer.on_send = gone
    with pytest.raises(OSError, match="client disconnected"):
        await asyncio.wait_for(platform.socket(), 5)
    await platform.sessions.until(lambda: platform.sessions.closed)
    assert platform.sessions.closed[0].startswith("the caller's socket closed")


async def test_a_session_that_dies_closes_the_socket_and_is_reported_once(platform: Platform) -> None:
    handler = platform.socket()
    await platform.peer.until_sent("websocket.accept")
    platform.sessions.over.set_exception(RayError("killed"))
    await asyncio.wait_for(handler, 5)
    assert platform.peer.sent[-1]["code"] == 1011
    call_id, outcome, _ = await platform.workers.report()
    assert (call_id, outcome, len(platform.workers.reports)) == ("call-1", "session_lost", 1)


async def test_a_hang_up_seen_first_by_the_sender_is_still_a_hang_up(platform: Platform) -> None:
    """Audio is sent all the time: that the socket closed is often noticed there, before the close code is read."""

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.send":
            asyncio.get_running_loop().call_later(0.05, platform.peer.hangs_up)
            raise OSError("client disconnected")

    platform.peer.on_send = send
    handler = platform.socket()
    await platform.peer.until_sent("websocket.accept")
    assert platform.sessions.channel is not None
    platform.sessions.channel.send(b"\x00" * 640)
    await asyncio.wait_for(handler, 5)
    await platform.sessions.until(lambda: platform.sessions.closed)
    assert platform.sessions.closed == ["the caller's socket closed with code 1000"]


async def test_the_session_ends_a_call_whose_socket_does_not_read(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets_module, "CLOSE_TIMEOUT_S", 0.05)

    async def stuck(message: dict[str, Any]) -> None:
        if message["type"] != "websocket.accept":
            await asyncio.Event().wait()

    platform.peer.on_send = stuck
    handler = platform.socket()
    await platform.peer.until_sent("websocket.accept")
    assert platform.sessions.channel is not None
    platform.sessions.channel.send(b"\x00" * 640)
    platform.sessions.channel.close("the call is over")
    await asyncio.wait_for(handler, 5)
    assert platform.workers.reports == []


async def test_a_message_that_is_too_long_ends_its_call_only(platform: Platform) -> None:
    handler = platform.socket()
    await platform.peer.until_sent("websocket.accept")
    platform.peer.says(bytes=b"\x00" * 2_000_000)
    await asyncio.wait_for(handler, 5)
    await platform.sessions.until(lambda: platform.sessions.closed)
    assert "2000000" in platform.sessions.closed[0]


async def test_the_replica_stays_until_its_own_listeners_calls_and_their_sessions_are_over(platform: Platform) -> None:
    """Serve counts none of them: it waits for the end of the ASGI lifespan only."""
    replica = platform.replica
    replica._listener = listener = MediaListener(replica._app, host="127.0.0.1", port=0)
    listener.open()
    lifespan = Peer()
    lifespan.incoming.get_nowait()
    ending = asyncio.create_task(replica._app({"type": "lifespan"}, lifespan.incoming.get, lifespan.send))
    lifespan.incoming.put_nowait({"type": "lifespan.startup"})
    await lifespan.until_sent("lifespan.startup.complete")

    uri = f"ws://127.0.0.1:{listener.port}/media/call-1/token"
    async with connect(uri, proxy=None, compression=None) as caller:
        assert replica.record_autoscaling_stats() == {"own_sockets": 1.0}
        lifespan.incoming.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.sleep(3 * WAIT_S)
        await caller.send(b"\x01" * 640)
        await platform.sessions.until(lambda: platform.sessions.got)
        assert not ending.done()
    await platform.sessions.until(lambda: platform.sessions.closed)
    await asyncio.sleep(3 * WAIT_S)
    # The caller hung up; the session still writes its records.
    assert not ending.done() and not platform.sessions.cancelled.is_set()
    platform.sessions.over.set_result(None)
    await asyncio.wait_for(ending, 5)
    assert [message["type"] for message in lifespan.sent][-1] == "lifespan.shutdown.complete"
    assert platform.workers.reports == []


async def test_a_caller_of_the_listener_who_goes_before_admission_ends_its_session(platform: Platform) -> None:
    """No proxy cancels the handler here: it goes on, and finds the socket gone."""
    listener = MediaListener(platform.replica._app, host="127.0.0.1", port=0)
    listener.open()
    reply = asyncio.Event()
    items = platform.sessions.items

    async def slow() -> AsyncIterator[dict[str, Any]]:
        await reply.wait()
        async for item in items():
            yield item

    platform.sessions.items = slow  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(HANDSHAKE)
    await asyncio.wait_for(platform.sessions.leased.wait(), 5)
    writer.close()
    await asyncio.sleep(0.02)
    reply.set()
    await platform.sessions.until(lambda: platform.sessions.closed)
    assert platform.sessions.closed == ["the caller's socket closed with code 1006"]
    platform.sessions.over.set_result(None)
    listener.close()
    await asyncio.wait_for(listener.drained(), 5)
    assert listener.sockets == 0


async def test_a_burst_leaves_in_one_write_and_a_text_keeps_its_place() -> None:
    """A `clear` must follow the audio before it and go ahead of the audio after it, at once."""
    writes: list[tuple[WireMessage, ...]] = []
    caller = SimpleNamespace(
        send=lambda *messages: writes.append(messages), close=lambda *reason: writes.append(("closed",))
    )
    relay = Relay(cast(Any, caller))
    frame = bytes(640)
    for _ in range(6):
        relay.message(frame)
    await asyncio.sleep(0)
    assert writes == [(frame,) * 6]
    relay.message(frame)
    relay.message("clear")
    assert writes[1:] == [(frame, "clear")]
    relay.message(frame)
    relay.session_closed("over")
    await asyncio.sleep(0)
    assert writes[2:] == [(frame,), ("closed",)]
