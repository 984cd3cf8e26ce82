"""SIGKILL under Ray: replicas of the `Dialer` deployment die at random moments of a campaign, and Serve replaces them.

The platform is the one that `serve run` starts, with its simulated network. Half of the kills come as soon as a request
was seen at the network, the others a random time after the replica's first one, or while it starts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from load_tests.dialer.checks import Findings, is_quiet, look
from load_tests.dialer.network import Post, Seen, SeenCall, attempt_of
from serve_app.cli.campaign_audit import NetworkCall, network_calls
from serve_app.store.db import Database
from tests.integration.harness import Running, a_platform, eventually

AT_START = 0.1
AT_REQUEST = 0.6
LONGEST_START_S = 1.0
MOST_REQUESTS = 6
LONGEST_LIFE_S = 5.0
LATEST_SHOT_S = 0.03
REPLACED_S = 120.0
QUIET_S = 400.0
POLL_S = 0.02

CALLEES: Sequence[Mapping[str, Any]] = (
    {"outcome": "busy", "answer_after_ms": 300},
    {"outcome": "unanswered", "answer_after_ms": 3000},
    {"outcome": "rejected", "answer_after_ms": 1500},
    {"outcome": "busy", "answer_after_ms": 1000},
    {"steps": [{"say": "Goodbye."}, {"listen": True}], "answer_after_ms": 500},
    {"outcome": "failed", "answer_after_ms": 100},
)
"""What they do, in turns."""
RULES = {
    "countries": ["US"],
    "hours": {"mon-sun": ["00:00-24:00"]},
    "purpose": "informational",
    "consent": {"required": "none", "reason": "these numbers are simulated"},
}


@dataclass(frozen=True, slots=True)
class RayKilling:
    """One run."""

    kills: int
    by_request: int
    """Of them, those right after a request."""
    replaced_s: Sequence[float]
    """From each kill to the next request that reached the network."""
    findings: Findings
    quiet: bool
    """Everything came to its end."""


@contextmanager
def ray_platform() -> Iterator[Running]:
    """Started for this run, and stopped after it. Its folder's name is short: a socket lies in it."""
    with TemporaryDirectory(prefix="pk-") as folder, a_platform(Path(folder)) as running:
        yield running


def kill_replicas(platform: Running, *, kills: int, leads: int, seed: int, show: Callable[[str], None]) -> RayKilling:
    """So many kills, as long as there are leads to call; then the campaign is paused, and all comes to its end.

    Raises AssertionError if the dialer was not replaced in time.
    """
    rng = random.Random(seed)
    run = _Run(platform, [f"+1212{3_000_000 + index:07d}" for index in range(leads)])
    by_request = killed = 0
    replaced_s: list[float] = []
    run.start()
    (replica,) = eventually(lambda: platform.replicas("Dialer"), REPLACED_S)
    while killed < kills and run.placed() < leads:
        before, how = run.placed(), rng.random()
        if killed and how < AT_START:
            time.sleep(rng.uniform(0, LONGEST_START_S))
        elif how < AT_REQUEST:
            run.until_placed(min(before + rng.randint(1, MOST_REQUESTS), leads))
            time.sleep(rng.uniform(0, LATEST_SHOT_S))
            by_request += 1
        else:
            run.until_placed(before + 1)
            time.sleep(rng.uniform(0, LONGEST_LIFE_S))
        replica.kill()
        replica.wait()
        killed += 1
        died_at, at_death = time.monotonic(), run.placed()
        replica = run.replaced(replica)
        if at_death < leads:
            run.until_placed(at_death + 1)
            replaced_s.append(time.monotonic() - died_at)
            show(f"kill {killed}: the next request {replaced_s[-1]:.1f} s later")
    run.pause()
    return RayKilling(killed, by_request, replaced_s, *asyncio.run(run.findings()))


class _Run:
    """A campaign of a running platform."""

    def __init__(self, platform: Running, numbers: Sequence[str]) -> None:
        self._platform, self._numbers = platform, frozenset(numbers)
        for index, number in enumerate(numbers):
            behaviour = CALLEES[index % len(CALLEES)]
            platform.sim.put(f"/sim/callees/{number.lstrip('+')}", json=behaviour).raise_for_status()
        asked = {"name": "killed", "agent": "brief", "calling_rules": RULES}
        self._id = str(platform.api.post("/api/v1/campaigns", json=asked).raise_for_status().json()["id"])
        leads = [{"number": number} for number in numbers]
        platform.api.post(f"/api/v1/campaigns/{self._id}/leads/bulk", json={"leads": leads}).raise_for_status()

    def start(self) -> None:
        self._platform.api.post(f"/api/v1/campaigns/{self._id}/start").raise_for_status()

    def pause(self) -> None:
        self._platform.api.post(f"/api/v1/campaigns/{self._id}/pause").raise_for_status()

    def placed(self) -> int:
        """Calls that the network knows."""
        return len(_calls(self._platform, self._numbers))

    def until_placed(self, count: int) -> None:
        eventually(lambda: self.placed() >= count, REPLACED_S, every_s=POLL_S)

    def replaced(self, dead: psutil.Process) -> psutil.Process:
        """The replica that Serve started in its place."""
        found: list[psutil.Process] = eventually(
            lambda: [other for other in self._platform.replicas("Dialer") if other.pid != dead.pid], REPLACED_S
        )
        return found[0]

    async def findings(self) -> tuple[Findings, bool]:
        """Once all is at rest; False: it did not come to rest."""
        path = self._platform.world.folder / "data" / "parley.db"
        async with aclosing(await Database.connect(f"sqlite+aiosqlite:///{path}")) as db:
            deadline = time.monotonic() + QUIET_S
            while not (quiet := await is_quiet(db, self._id)) and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(1.0)
            calls = _calls(self._platform, self._numbers)
            posts = [
                Post(call.created_at.timestamp(), attempt_of(call.answer_url), call.number, HTTPStatus.CREATED)
                for call in calls
            ]
            seen = [
                SeenCall(
                    attempt_of(call.answer_url),
                    call.number,
                    call.created_at.timestamp(),
                    None if call.ended_at is None else call.ended_at.timestamp(),
                )
                for call in calls
            ]
            return await look(db, self._id, Seen(posts, seen), len(self._numbers)), quiet


def _calls(platform: Running, numbers: Collection[str]) -> list[NetworkCall]:
    found = network_calls(platform.sim.get("/sim/calls").raise_for_status().json()["calls"])
    return [call for call in found if call.number in numbers]
