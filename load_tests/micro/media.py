"""The path of a frame: wire codec, link, playout.

The budget behind the aims: 100 us of CPU per frame pair over all processes, of which system calls take most. What is
only Python between two system calls gets a few per cent each.
"""

from __future__ import annotations

import asyncio
import time

from deployments.link.client import LinkPool
from deployments.link.frames import Decoder, Kind, encode
from deployments.link.server import LinkServer
from load_tests.micro.figures import ROUNDS, Figure, cpu_us
from serve_app.conversation.far_marks import Mark
from serve_app.conversation.playout import Playout
from serve_app.conversation.speakable import speakable
from serve_app.providers.base import AudioFormat
from serve_app.settings import LinkSettings
from serve_app.telephony.base import WireMessage
from serve_app.telephony.vonage.wire import VonageLeg

FRAME = bytes(640)
LINEAR_16K = AudioFormat("linear16", 16000)
SECOND_OF_AUDIO = bytes(LINEAR_16K.bytes_for_ms(1000))
UTTERANCE_S = 10
WAKE_S = 0.06
LINK_CALLS = 20


def link_codec() -> Figure:
    decoder = Decoder()
    rounds = cpu_us(lambda: list(decoder.feed(encode(7, Kind.BINARY, FRAME))), 20_000)
    return Figure("link: encode and decode one 640-byte frame", 5, "us", rounds)


def vonage_wire() -> Figure:
    leg = VonageLeg(16000)
    leg.receive('{"event":"websocket:connected","content-type":"audio/l16;rate=16000"}')
    rounds = cpu_us(lambda: (leg.receive(FRAME), leg.play(FRAME)), 20_000)
    return Figure("Vonage wire: one frame in and one out", 3, "us", rounds)


def playout() -> Figure:
    """An utterance of ten seconds in the pieces of a synthesizer, paced as a driver does, marks confirmed."""
    now = 0.0
    played_frames = 0

    def utterance() -> None:
        nonlocal now, played_frames
        player = Playout(LINEAR_16K, lead_ms=400)
        player.begin(1)
        for sentence in range(UTTERANCE_S):
            player.push_text(1, speakable(f"Sentence {sentence}. ", "en"))
            player.push_audio(1, SECOND_OF_AUDIO)
        player.finish(1)
        marks: list[str] = []
        while not player.idle:
            now += WAKE_S
            marks += [item.id for item in player.tick(now) if isinstance(item, Mark)]
            played_frames += len(player.take_played())
            player.take_notices()
            if marks and not player.ahead_s(now):
                player.confirm(marks.pop(), now)

    calls = 20
    rounds = cpu_us(utterance, calls, per=UTTERANCE_S * 50)
    expected = (ROUNDS * calls + 1) * UTTERANCE_S * 50
    assert played_frames == expected, f"{played_frames} frames played, {expected} pushed"
    # Every spoken frame of every call: at 100 calls that speak 65 % of the time, 3 us are 1 % of a core.
    return Figure("playout: one frame in, paced, out and accounted for", 3, "us", rounds)


class _Echo:
    """A session that sends back what it gets, and a caller that counts it."""

    def __init__(self) -> None:
        self.port: object = None
        self.got: asyncio.Queue[None] = asyncio.Queue()

    def media_received(self, message: WireMessage) -> None:
        self.port.send(message)  # type: ignore[attr-defined]

    def media_closed(self, reason: str) -> None:
        return

    def message(self, message: WireMessage) -> None:
        self.got.put_nowait(None)

    def session_closed(self, reason: str) -> None:
        return

    def session_lost(self, reason: str) -> None:
        return


async def link_round_trip() -> Figure:
    """A frame each of `LINK_CALLS` calls through the Unix socket and back, both ends in this process.

    Together, as in a tick: the link joins frames that follow each other closely, so one alone would mostly wait.
    """
    settings = LinkSettings()
    server, pool, echo = LinkServer(settings), LinkPool(settings), _Echo()
    await server.start()
    address = await server.address(same_node=True)
    channels = []
    for number in range(LINK_CALLS):
        call_id, session = f"bench-{number}", _Echo()
        invited = server.invite(call_id, 1)
        channels.append(
            await pool.attach(address, call_id=call_id, epoch=1, token=invited.token, proof=invited.proof, sink=echo)
        )
        session.port = invited
        invited.bind(session)
    rounds, ticks = [], 100
    for _ in range(ROUNDS):
        start = time.process_time()
        for _ in range(ticks):
            for channel in channels:
                channel.send(FRAME)
            for _ in channels:
                await echo.got.get()
        rounds.append((time.process_time() - start) / (ticks * LINK_CALLS) * 1e6)
    await pool.close()
    await server.close()
    # Both directions and both ends, of the frame pair's whole budget a fifth: the rest is the two sockets' to outside.
    return Figure(f"link: one of {LINK_CALLS} frames there and back", 20, "us", rounds)
