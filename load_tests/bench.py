"""`make bench`: the quick benchmarks. Each prints its aim, the figure, the spread, and PASS or MISS.

The aims hold for an idle 2-core machine. A figure is the median of the rounds; the spread is their range.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from deployments.link.client import LinkPool
from deployments.link.frames import Decoder, Kind, encode
from deployments.link.server import LinkServer
from serve_app.audio import g711
from serve_app.settings import LinkSettings
from serve_app.telephony.base import WireMessage
from serve_app.telephony.vonage.wire import VonageLeg

ROUNDS = 7
FRAME = bytes(640)


@dataclass(frozen=True, slots=True)
class Figure:
    name: str
    aim: float
    unit: str
    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def passed(self) -> bool:
        return self.median <= self.aim


def per_call_us(work: Callable[[], object], calls: int) -> list[float]:
    """Microseconds per call of `work`, once per round."""
    figures = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            work()
        figures.append((time.perf_counter() - start) / calls * 1e6)
    return figures


def link_codec() -> Figure:
    decoder = Decoder()
    return Figure(
        "link: encode and decode one 640-byte frame",
        5,
        "us",
        per_call_us(lambda: list(decoder.feed(encode(7, Kind.BINARY, FRAME))), 20_000),
    )


def vonage_wire() -> Figure:
    leg = VonageLeg(16000)
    leg.receive('{"event":"websocket:connected","content-type":"audio/l16;rate=16000"}')
    return Figure(
        "Vonage wire: one frame in and one out",
        3,
        "us",
        per_call_us(lambda: (leg.receive(FRAME), leg.play(FRAME)), 20_000),
    )


def mu_law() -> Figure:
    samples = (np.sin(np.arange(160) / 5) * 8000).astype("<i2").tobytes()
    return Figure(
        "G.711: encode and decode 20 ms at 8 kHz",
        20,
        "us",
        per_call_us(lambda: g711.mulaw_decode(g711.mulaw_encode(samples)), 5_000),
    )


class _Echo:
    """A session that sends back what it gets, and a caller that counts it."""

    def __init__(self) -> None:
        self.port: object = None
        self.got: asyncio.Queue[float] = asyncio.Queue()

    def media_received(self, message: WireMessage) -> None:
        self.port.send(message)  # type: ignore[attr-defined]

    def media_closed(self, reason: str) -> None:
        return

    def message(self, message: WireMessage) -> None:
        self.got.put_nowait(time.perf_counter())

    def session_closed(self, reason: str) -> None:
        return

    def session_lost(self, reason: str) -> None:
        return


async def link_round_trip() -> Figure:
    """A frame through the Unix socket to the other end and back, one at a time, both ends in this process."""
    settings = LinkSettings()
    server, pool, echo = LinkServer(settings), LinkPool(settings), _Echo()
    await server.start()
    invited = server.invite("bench", 1)
    channel = await pool.attach(
        await server.address(same_node=True),
        call_id="bench",
        epoch=1,
        token=invited.token,
        proof=invited.proof,
        sink=echo,
    )
    echo.port = invited
    invited.bind(echo)
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(2_000):
            channel.send(FRAME)
            await echo.got.get()
        rounds.append((time.perf_counter() - start) / 2_000 * 1e6)
    await pool.close()
    await server.close()
    return Figure("link: one frame there and back over the Unix socket", 150, "us", rounds)


def main() -> int:
    """Run all and print the table. The exit code is 0 whatever the figures: machines differ."""
    figures: list[Figure] = [link_codec(), vonage_wire(), mu_law()]
    asynchronous: list[Callable[[], Awaitable[Figure]]] = [link_round_trip]
    for measure in asynchronous:
        figures.append(uvloop.run(measure()))  # type: ignore[arg-type]
    table = Table(title="Quick benchmarks", title_justify="left")
    for column in ("benchmark", "aim", "figure", "spread", ""):
        table.add_column(column, justify="left" if column in ("benchmark", "") else "right")
    for figure in figures:
        low, high = min(figure.rounds), max(figure.rounds)
        table.add_row(
            figure.name,
            f"<= {figure.aim:g} {figure.unit}",
            f"{figure.median:.2f} {figure.unit}",
            f"{low:.2f} - {high:.2f}",
            "PASS" if figure.passed else "MISS",
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
