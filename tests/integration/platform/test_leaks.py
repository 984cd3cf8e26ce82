"""Two hundred short calls leave nothing: tasks, calls in memory, descriptors, sockets, threads, keys in Redis."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import redis

from serve_app.store.redis_scripts import VALID_REPORTS
from tests.integration.harness import NUMBER, Running, eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

CALLS = 200
AT_ONCE = 12
"""Below one replica's twenty: a slot is free again a moment after its call, and no other replica is started."""
WARM_UP = 24
"""Lazy imports, handles between deployments, thread pools and connection pools are there after as many calls."""
WARM_UP_ROUNDS = 4
POOLS = 10
"""How many descriptors, sockets and threads a process may have more than at the base: its pools grow with chance, up to
a bound. A leak in one call of ten would be twenty."""
DEPLOYMENTS = ("MediaIngress", "CallSessions", "CodecPool", "ControlApi", "Dialer", "Workers")
SETTLE_S = 60
"""The last recordings are mixed, idle connections closed, and every replica has reported since."""
BEATS, REPORTS = "parley:vitals:beats", "parley:vitals"


Replica = tuple[str, int]
"""Deployment and process id."""


@dataclass(frozen=True, slots=True)
class Holds:
    """What one replica process holds. `tasks` and `calls` by its own report; None where it makes none (CodecPool).

    `calls`: those that are open, or over and not freed.
    """

    fds: int
    sockets: int
    threads: int
    tasks: int | None
    calls: int | None

    def within(self, base: Holds) -> bool:
        """No more tasks or calls than at the base, and of what pools hold no more than a pool does."""

        def more(now: int | None, before: int | None) -> int:
            return 0 if now is None or before is None else now - before

        pooled = max(self.fds - base.fds, self.sockets - base.sockets, self.threads - base.threads)
        return more(self.tasks, base.tasks) <= 0 and more(self.calls, base.calls) <= 0 and pooled <= POOLS


class Census:
    """Counts the platform's processes and its Redis from outside."""

    def __init__(self, platform: Running) -> None:
        self._platform = platform
        self._redis = redis.Redis.from_url(platform.world.redis_url, decode_responses=True)
        self._seen: dict[int, dict[str, Any]] = {}

    def replicas(self) -> dict[Replica, Holds]:
        reports = self._reports()
        return {
            (name, process.pid): self._holds(process, reports.get(process.pid, {}))
            for name in DEPLOYMENTS
            for process in self._platform.replicas(name)
        }

    def _holds(self, process: psutil.Process, report: dict[str, Any]) -> Holds:
        with process.oneshot():
            return Holds(
                fds=process.num_fds(),
                sockets=len(process.net_connections("all")),
                threads=process.num_threads(),
                tasks=report.get("tasks"),
                calls=report.get("calls_held"),
            )

    def _reports(self) -> dict[int, dict[str, Any]]:
        script = self._redis.register_script(VALID_REPORTS)
        flat = script(keys=[BEATS, REPORTS])
        reports = [json.loads(report) for report in flat[1::2]]
        return {report["pid"]: report for report in reports}

    def wait_for_reports(self) -> None:
        """Until every replica has reported once more: what it said before may be older than what it is asked about."""
        before = dict(self._redis.zrange(BEATS, 0, -1, withscores=True))

        def reported(replica: str) -> bool:
            expires = self._redis.zscore(BEATS, replica)
            return expires is None or expires > before[replica]

        eventually(lambda: all(map(reported, before)), SETTLE_S)

    def calls_begun(self) -> Counter[str]:
        """Calls that the replicas of a deployment have held since they started, as they report it.

        A replica that is gone counts with its last report: on a slow machine one may be scaled away meanwhile. Asked
        more often than a report is valid (20 s), no report is missed.
        """
        self._seen |= self._reports()
        begun: Counter[str] = Counter()
        for report in self._seen.values():
            begun[report["deployment"]] += report["calls_begun"]
        return begun

    def calls_by_session_replica(self) -> list[int]:
        return [report["calls_begun"] for report in self._reports().values() if report["deployment"] == "sessions"]

    def task_kinds(self) -> dict[int, dict[str, int]]:
        """pid -> coroutine -> tasks of it."""
        return {pid: report["task_kinds"] for pid, report in self._reports().items()}

    def live_keys(self) -> dict[str, int]:
        """What stands for calls that are up."""
        return {
            "slots": self._redis.zcard("parley:slots"),
            "leases": self._redis.zcard("parley:leases"),
            "media tokens": len(list(self._redis.scan_iter("parley:media:*", count=1000))),
        }

    def lasting_keys(self) -> set[str]:
        """Keys that no time to live removes."""
        return {key for key in self._redis.scan_iter("*", count=1000) if self._redis.ttl(key) == -1}


def call_and_hang_up(platform: Running, number: int) -> bool:
    """An inbound call (no limit of calls per second) whose caller hangs up within the first second, at any stage.

    False: it was refused, in words. A replica whose event loop lags, on a slow machine, takes no more calls.
    """
    steps = [{"wait_ms": number % 10 * 100}, {"hang_up": True}]
    placed = platform.sim.post(
        "/sim/inbound", json={"from": f"1202556{number:04d}", "to": NUMBER, "behaviour": {"steps": steps}}
    )
    assert placed.status_code == 201, placed.text
    url = f"/sim/calls/{placed.json()['uuid']}"

    def over() -> dict[str, Any] | None:
        call: dict[str, Any] = platform.sim.get(url).raise_for_status().json()
        return call if call["over"] else None

    return not eventually(over, 60, every_s=0.2)["talk_texts"]


def many_calls(platform: Running, census: Census, numbers: range) -> None:
    """One conversation each."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda number: eventually(lambda: call_and_hang_up(platform, number), 60), numbers):
            census.calls_begun()


def warm_up(platform: Running, census: Census) -> None:
    """Until every session replica has held calls: the first one makes its handles and connections."""
    for round_number in range(WARM_UP_ROUNDS):
        first = CALLS + round_number * WARM_UP
        many_calls(platform, census, range(first, first + WARM_UP))
        census.wait_for_reports()
        if min(census.calls_by_session_replica(), default=0) >= 2:
            return
    raise AssertionError(f"a session replica gets no calls: {census.calls_by_session_replica()}")


def settled(census: Census) -> dict[Replica, Holds]:
    """What the replicas hold once they hold no call, and nothing changes between two of their reports."""
    deadline = time.monotonic() + SETTLE_S
    before = census.replicas()
    while True:
        census.wait_for_reports()
        now = census.replicas()
        if now == before and not any(hold.calls for hold in now.values()) and not any(census.live_keys().values()):
            return now
        assert time.monotonic() < deadline, f"no rest within {SETTLE_S} s: {now}, {census.live_keys()}"
        before = now


def left(census: Census, base: dict[Replica, Holds]) -> dict[Replica, tuple[Holds, Holds]]:
    """The replicas that hold more than before; one that is new, than the largest of its deployment did."""
    found = {}
    for replica, holds in census.replicas().items():
        peers = [held for other, held in base.items() if other[0] == replica[0]]
        before = base.get(replica) or max(peers, key=lambda held: held.fds)
        if not holds.within(before):
            found[replica] = (before, holds)
    return found


def test_two_hundred_calls_leave_nothing(platform: Running) -> None:
    census = Census(platform)
    warm_up(platform, census)
    base, base_keys = settled(census), census.lasting_keys()
    begun = census.calls_begun()
    many_calls(platform, census, range(CALLS))
    census.wait_for_reports()
    try:
        eventually(lambda: not left(census, base) and not any(census.live_keys().values()), SETTLE_S)
    except AssertionError:
        raise AssertionError(
            f"left behind (before, now): {left(census, base)}, {census.live_keys()}; tasks: {census.task_kinds()}"
        ) from None
    assert census.lasting_keys() - base_keys == set()
    # They were conversations, not refusals.
    for deployment in ("sessions", "ingress"):
        eventually(lambda name=deployment: census.calls_begun()[name] - begun[name] == CALLS, SETTLE_S)
