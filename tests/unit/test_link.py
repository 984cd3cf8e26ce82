"""The media link between an ingress and a session process: format, attachment, order, bounds, loss."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from deployments.link.address import LinkAddress
from deployments.link.client import ClientChannel, LinkPool, LinkRefusedError
from deployments.link.frames import HEADER, Decoder, Kind, LinkProtocolError, encode
from deployments.link.server import LinkServer, ServerChannel
from serve_app.settings import LinkSettings
from serve_app.telephony.base import WireMessage


@given(
    frames=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(Kind), st.binary(max_size=300))),
    cuts=st.lists(st.integers(0, 5000)),
)
def test_frames_survive_any_chunking(frames: list[tuple[int, Kind, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode(*frame) for frame in frames)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder = Decoder()
    got = [frame for start, end in itertools.pairwise(edges) for frame in decoder.feed(stream[start:end])]
    assert got == frames


def test_what_is_not_a_frame_is_refused() -> None:
    with pytest.raises(LinkProtocolError):
        list(Decoder().feed(HEADER.pack(1, 99 << 24)))
    with pytest.raises(LinkProtocolError):
        list(Decoder().feed(HEADER.pack(1, (Kind.BINARY << 24) | 0xFFFFFF)))


class Sink:
    """Records what a session or an ingress is told."""

    def __init__(self) -> None:
        self.messages: list[WireMessage] = []
        self.closed: list[str] = []
        self.lost: list[str] = []
        self.changed = asyncio.Event()

    def media_received(self, message: WireMessage) -> None:
        self.messages.append(message)
        self.changed.set()

    message = media_received

    def media_closed(self, reason: str) -> None:
        self.closed.append(reason)
        self.changed.set()

    session_closed = media_closed

    def session_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.changed.set()

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


SETTINGS = LinkSettings(heartbeat_s=0.1)


@pytest.fixture(params=["unix", "tcp"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[LinkServer]:
    server = LinkServer(SETTINGS.model_copy(update={"transport": request.param}))
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def pool() -> AsyncIterator[LinkPool]:
    pool = LinkPool(SETTINGS)
    yield pool
    await pool.close()


async def attach(server: LinkServer, pool: LinkPool, call_id: str, caller: Sink) -> tuple[ServerChannel, ClientChannel]:
    invited = server.invite(call_id, 1)
    channel = await pool.attach(
        await server.address(same_node=True),
        call_id=call_id,
        epoch=1,
        token=invited.token,
        proof=invited.proof,
        sink=caller,
    )
    await invited.attached(1)
    return invited, channel


async def test_messages_of_many_calls_arrive_in_order_over_one_connection(server: LinkServer, pool: LinkPool) -> None:
    calls = []
    for index in range(8):
        session, caller = Sink(), Sink()
        invited, channel = await attach(server, pool, f"call-{index}", caller)
        channel.send("early")  # before the session is bound: kept
        calls.append((session, caller, invited, channel))
    assert len(server._connections) == 1
    for session, _, invited, channel in calls:
        channel.send(b"\x01" * 640)
        invited.bind(session)
        invited.send(b"\x02" * 640, '{"action":"clear"}')
    for session, caller, _, _ in calls:
        await session.until(lambda s=session: len(s.messages) == 2)
        await caller.until(lambda c=caller: len(c.messages) == 2)
        assert session.messages == ["early", b"\x01" * 640]
        assert caller.messages == [b"\x02" * 640, '{"action":"clear"}']


async def test_either_side_may_close_and_the_other_hears_it_once(server: LinkServer, pool: LinkPool) -> None:
    session, caller = Sink(), Sink()
    invited, channel = await attach(server, pool, "a", caller)
    invited.bind(session)
    channel.close("caller hung up")
    channel.close("caller hung up")
    await session.until(lambda: session.closed)
    invited.close("done")
    assert session.closed == ["caller hung up"]

    session, caller = Sink(), Sink()
    invited, channel = await attach(server, pool, "b", caller)
    invited.bind(session)
    invited.close("call over")
    await caller.until(lambda: caller.closed)
    assert (caller.closed, caller.lost, session.closed) == (["call over"], [], ["call over"])


async def test_an_attachment_needs_the_token_the_epoch_and_works_once(server: LinkServer, pool: LinkPool) -> None:
    invited = server.invite("a", 2)
    address = await server.address(same_node=True)
    for call_id, epoch, token in (("b", 2, invited.token), ("a", 1, invited.token), ("a", 2, "guess")):
        with pytest.raises(LinkRefusedError):
            await pool.attach(address, call_id=call_id, epoch=epoch, token=token, proof=invited.proof, sink=Sink())
    with pytest.raises(LinkRefusedError, match="does not hold the call"):
        await pool.attach(address, call_id="a", epoch=2, token=invited.token, proof="other", sink=Sink())
    with pytest.raises(LinkRefusedError, match="no such call"):
        await pool.attach(address, call_id="a", epoch=2, token=invited.token, proof=invited.proof, sink=Sink())


async def test_a_newer_epoch_voids_the_older_invitation(server: LinkServer, pool: LinkPool) -> None:
    old, new = server.invite("a", 1), server.invite("a", 2)
    sink = Sink()
    old.bind(sink)
    assert sink.closed == ["superseded by epoch 2"]
    with pytest.raises(LinkRefusedError):
        await pool.attach(
            await server.address(same_node=True), call_id="a", epoch=1, token=old.token, proof=old.proof, sink=Sink()
        )
    server.withdraw(new)


async def test_the_end_of_either_process_is_told_to_every_call(server: LinkServer, pool: LinkPool) -> None:
    session, caller = Sink(), Sink()
    invited, _ = await attach(server, pool, "a", caller)
    invited.bind(session)
    for connection in list(server._connections):
        connection.abort("killed")
    await caller.until(lambda: caller.lost)
    assert len(session.closed) == 1 and caller.closed == []
    # The pool connects anew for the next call.
    await attach(server, pool, "b", Sink())


async def test_a_silent_peer_is_noticed_by_its_missing_heartbeat(pool: LinkPool, tmp_path: Path) -> None:
    """A process that is stopped keeps its sockets open: only the heartbeat tells."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.readexactly(HEADER.size)
            channel, word = HEADER.unpack(data)
            await reader.readexactly(word & 0xFFFFFF)
            writer.write(encode(channel, Kind.ATTACHED, b"proof"))
            await reader.read()
        finally:
            writer.close()

    path = tmp_path / "mute.sock"
    listener = await asyncio.start_unix_server(mute, path)
    caller = Sink()
    await pool.attach(LinkAddress(path=str(path)), call_id="a", epoch=1, token="t", proof="proof", sink=caller)
    await caller.until(lambda: caller.lost)
    assert "no sign of life" in caller.lost[0]
    listener.close()


async def test_a_quiet_link_stays_alive(server: LinkServer, pool: LinkPool) -> None:
    session, caller = Sink(), Sink()
    invited, channel = await attach(server, pool, "a", caller)
    invited.bind(session)
    await asyncio.sleep(SETTINGS.heartbeat_s * 6)
    channel.send("still here")
    await session.until(lambda: session.messages)
    assert not caller.lost and not session.closed


async def test_a_slow_peer_costs_old_audio_but_no_text(server: LinkServer, pool: LinkPool) -> None:
    session, caller = Sink(), Sink()
    invited, channel = await attach(server, pool, "a", caller)
    invited.bind(session)
    connection = channel._connection
    connection.pause_writing()
    limit = SETTINGS.queue_messages
    channel.send("text")
    for number in range(limit + 50):
        channel.send(number.to_bytes(4, "little"))
    connection.resume_writing()
    await session.until(lambda: len(session.messages) == limit)
    assert session.messages[0] == "text"
    kept = [int.from_bytes(m, "little") for m in session.messages[1:] if isinstance(m, bytes)]
    assert kept == list(range(51, limit + 50))
    assert connection.dropped == 51


async def test_a_call_that_sends_text_to_a_peer_that_does_not_read_ends_alone(
    server: LinkServer, pool: LinkPool
) -> None:
    sessions, callers = [Sink(), Sink()], [Sink(), Sink()]
    channels = []
    for call_id, session, caller in zip("ab", sessions, callers, strict=True):
        invited, channel = await attach(server, pool, call_id, caller)
        invited.bind(session)
        channels.append(channel)
    connection = channels[0]._connection
    connection.pause_writing()
    for _ in range(SETTINGS.queue_messages + 10):
        channels[0].send("text")
    channels[1].send("hello")
    assert len(callers[0].lost) == 1 and "does not read" in callers[0].lost[0]
    connection.resume_writing()
    await sessions[0].until(lambda: sessions[0].closed)
    await sessions[1].until(lambda: sessions[1].messages == ["hello"])
    assert callers[1].lost == [] and sessions[1].closed == []


def test_a_loop_that_stood_still_does_not_take_its_peer_for_dead() -> None:
    """uvloop, which Ray uses, runs the timers that are due before it reads what has arrived."""

    async def stall() -> None:
        server, pool = LinkServer(SETTINGS), LinkPool(SETTINGS)
        await server.start()
        session, caller = Sink(), Sink()
        invited, channel = await attach(server, pool, "a", caller)
        invited.bind(session)
        channel.send("before")
        await asyncio.sleep(SETTINGS.heartbeat_s / 2)
        time.sleep(SETTINGS.heartbeat_s * 5)  # noqa: ASYNC251  the fault under test
        await asyncio.sleep(SETTINGS.heartbeat_s * 3)
        channel.send("after")
        await session.until(lambda: session.messages == ["before", "after"] or session.closed)
        assert not session.closed and not caller.lost
        await pool.close()
        await server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(stall())


async def test_a_session_does_not_wait_for_an_ingress_that_gave_up(tmp_path: Path) -> None:
    """The answer to an attachment comes too late: the session has the call, and must hear that nobody is there."""
    received = bytearray()
    closed = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        while data := await reader.read(4096):
            received.extend(kind for _, kind, _ in decoder.feed(data))
            if Kind.CLOSE in received:
                closed.set()
        writer.close()

    path = tmp_path / "slow.sock"
    listener = await asyncio.start_unix_server(slow, path)
    pool = LinkPool(LinkSettings(attach_timeout_s=0.1))
    with pytest.raises(TimeoutError):
        await pool.attach(LinkAddress(path=str(path)), call_id="a", epoch=1, token="t", proof="p", sink=Sink())
    async with asyncio.timeout(30):
        await closed.wait()
    await pool.close()
    listener.close()


async def test_an_unattached_call_times_out(server: LinkServer) -> None:
    with pytest.raises(TimeoutError):
        await server.invite("a", 1).attached(0.05)


def _certificates(folder: Path) -> dict[str, str]:
    """A CA and a node certificate, as Ray's TLS wants them."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ray node")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "node.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "node.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_SERVER_CERT": str(folder / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "node.key"),
        "RAY_TLS_CA_CERT": str(folder / "node.crt"),
    }


async def test_between_nodes_the_link_uses_rays_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in _certificates(tmp_path).items():
        monkeypatch.setenv(variable, value)
    server, pool = LinkServer(SETTINGS.model_copy(update={"transport": "tcp"})), LinkPool(SETTINGS)
    await server.start()
    session, caller = Sink(), Sink()
    invited, channel = await attach(server, pool, "a", caller)
    invited.bind(session)
    channel.send(b"frame")
    await session.until(lambda: session.messages == [b"frame"])
    assert next(iter(server._connections))._transport.get_extra_info("cipher") is not None  # type: ignore[union-attr]
    # Without a certificate of the same CA nobody gets in.
    monkeypatch.setenv("RAY_USE_TLS", "0")
    stranger = LinkPool(SETTINGS)
    invited = server.invite("b", 1)
    with pytest.raises((LinkRefusedError, OSError, TimeoutError)):
        await stranger.attach(
            await server.address(same_node=True),
            call_id="b",
            epoch=1,
            token=invited.token,
            proof=invited.proof,
            sink=Sink(),
        )
    await stranger.close()
    await pool.close()
    await server.close()
