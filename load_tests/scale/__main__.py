"""`python -m load_tests.scale [SCENARIO ...]`: run them one after the other on clusters of their own.

Exit code 0 only if every verdict is PASS. Needs nothing running, and about a quarter of an hour for all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import itertools
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from load_tests.scale.changes import Change, Changes
from load_tests.scale.report import underruns, write
from load_tests.scale.scenario import HOLD_LIMIT_S, SCENARIOS, Scenario, set_ingress, with_new_args
from load_tests.scale.traffic import Traffic
from load_tests.scale.verdicts import Outcome, judge
from load_tests.scale.watch import Sample, Watcher
from serve_app.paths import configs_dir
from serve_app.store.call_ends import MIX_RECORDING
from serve_app.store.db import Database
from serve_app.store.jobs import Jobs
from serve_app.store.repositories import Calls
from tests.integration.cluster import Deployed, a_cluster, config_for

TICK_S = 0.25
SAMPLE_S = 1.0
SETTLE_S = 180.0
"""After the last call was asked for: the longest call, and the replicas' way back to their minimum."""
MIXES = 120
TENANT = "default"
RESULTS = Path(__file__).resolve().parents[1] / "results" / "scale"


class Run:
    """One scenario on a cluster of its own."""

    def __init__(self, scenario: Scenario, deployed: Deployed) -> None:
        self._scenario = scenario
        self._deployed = deployed
        self._document = scenario.document(config_for(deployed.world))
        deployed.deploy(self._document)
        running = deployed.ready()
        self._watcher = Watcher(deployed.dashboard, deployed.world.redis_url)
        self.traffic = Traffic(running.api, running.sim, time.monotonic())
        self.samples: list[Sample] = []
        self.changes = Changes(scenario.changes, scenario.peak_at_s)
        self._held_s = 0.0
        self._mixes_at_s = scenario.mixes_at_s
        self._asked = 0
        self._deployer = ThreadPoolExecutor(1)
        self._deploys: list[Future[None]] = []
        self._overloaded = scenario.overload == 0

    def follow(self) -> None:
        """The profile, then until everything is back at its minimum, or for `SETTLE_S`."""
        while (at_s := self._profile_s()) < self._scenario.duration_s + SETTLE_S:
            tick = time.monotonic()
            self._drive(at_s)
            self.traffic.poll()
            if not self.samples or self.traffic.now_s() - self.samples[-1].at_s >= SAMPLE_S:
                self.traffic.settle_unplaced()
                self._sample(at_s)
                over = at_s > self._scenario.duration_s and self.traffic.open == 0
                if over and (self._scenario.must_cut or self.samples[-1].at_minimum):
                    break
            time.sleep(max(0.0, TICK_S - (time.monotonic() - tick)))
        self._watcher.close()
        self._deployer.shutdown()
        for deploy in self._deploys:
            deploy.result()

    def _profile_s(self) -> float:
        """Where in its profile the run is: it waits at the end of the plateau for changes that are not through."""
        at_s, hold_at_s = self.traffic.now_s() - self._held_s, self._scenario.hold_at_s
        if at_s > hold_at_s and not self.changes.through and self._held_s < HOLD_LIMIT_S:
            self._held_s += at_s - hold_at_s
            return hold_at_s
        return at_s

    def _sample(self, at_s: float) -> None:
        sample = self._watcher.sample(self.traffic, self._scenario.wanted(at_s))
        self.samples.append(sample)
        self.changes.watch(sample)
        change = self.changes.due(sample)
        if change is not None:
            self._say(sample.at_s, change.name)
            self._make(change)

    def _make(self, change: Change) -> None:
        if change.kind == "ingress":
            set_ingress(self._document, change.replicas)
        else:
            settings = self._deployed.world.folder / "updated.yaml"
            settings.write_text((configs_dir() / "parley.yaml").read_text())
            self._document = with_new_args(self._document, str(settings))
        self._deploy()

    def _drive(self, at_s: float) -> None:
        if at_s < self._scenario.duration_s and self.traffic.open < self._scenario.wanted(at_s):
            self._ask()
        if not self._overloaded and self._scenario.wanted(at_s) >= self._scenario.full:
            self._overloaded = True
            for _ in range(self._scenario.overload):
                self._ask()
        if self._mixes_at_s is not None and at_s >= self._mixes_at_s:
            self._mixes_at_s = None
            self._say(at_s, f"{MIXES} recordings to mix")
            self._mix_anew()

    def _mix_anew(self) -> None:
        """Every recording so far, several times over: mixing again gives the same file."""
        database = f"sqlite+aiosqlite:///{self._deployed.world.folder / 'data' / 'parley.db'}"
        self._deploys.append(self._deployer.submit(lambda: asyncio.run(add_mixes(database))))

    def _deploy(self) -> None:
        """Beside the run: the command takes seconds to start, and calls must not go unwatched."""
        document = copy.deepcopy(self._document)
        self._deploys.append(self._deployer.submit(self._deployed.deploy, document, wait=False))

    def _ask(self) -> None:
        self._asked += 1
        self.traffic.ask("inbound" if self._asked % 2 else "outbound", self._scenario.call_s)

    def _say(self, at_s: float, text: str) -> None:
        print(f"  {at_s:5.0f} s  {text}", flush=True)


async def add_mixes(database_url: str) -> None:
    """Queue `MIXES` mix-downs of calls that have ended."""
    db = await Database.connect(database_url)
    try:
        ended = [call.id for call in (await Calls(db, TENANT).list(limit=50))[0] if call.over]
        for number, call_id in zip(range(MIXES), itertools.cycle(ended), strict=False):
            await Jobs(db).add(TENANT, MIX_RECORDING, {"call_id": call_id}, key=f"scale-{number}")
    finally:
        await db.aclose()


def run(scenario: Scenario, results: Path) -> bool:
    """True if every verdict is PASS."""
    print(f"{scenario.name}: {scenario.purpose}", flush=True)
    with a_cluster() as deployed:
        current = Run(scenario, deployed)
        current.follow()
    outcome = Outcome(list(current.traffic.calls.values()), current.samples, current.changes.seen)
    verdicts = judge(scenario, outcome)
    file = write(results, scenario, outcome, verdicts)
    for verdict in verdicts:
        print(f"  {verdict.line()}", flush=True)
    print(f"        {underruns(outcome.calls)}")
    print(f"  timeline: {file} and {file.with_suffix('.png').name}", flush=True)
    return all(verdict.passed for verdict in verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="load_tests.scale", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    unknown = [name for name in arguments.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario named {unknown[0]}; there are {', '.join(SCENARIOS)}")
    chosen = [SCENARIOS[name] for name in arguments.scenarios or SCENARIOS]
    # All of them, also after one that missed.
    missed = [scenario.name for scenario in chosen if not run(scenario, arguments.results)]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
