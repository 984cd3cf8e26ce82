"""`make bench-dialer`: dialer, feeder, webhooks and reconcilers die at 100,000 simulated points, one after the other.

Aim: no number has two live calls, no attempt is sent twice, no lead is lost. `--seed N --rounds 1` plays a round again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import count
from pathlib import Path

from rich.console import Console

from load_tests.crash_points.carrier import ContractBroken
from load_tests.crash_points.rounds import end_with_parent, play
from load_tests.crash_points.world import Tally
from load_tests.micro.figures import Figure, print_figures
from serve_app.store.migrate import upgrade

POINTS = 100_000
LEADS = 100
PROGRESS_S = 60.0


def main() -> int:
    """The exit code tells whether the contract held."""
    arguments = argparse.ArgumentParser(prog="python -m load_tests.crash_points", description=__doc__)
    arguments.add_argument("--points", type=int, default=POINTS, help="deaths, at least")
    arguments.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    arguments.add_argument("--leads", type=int, default=LEADS, help="of one round")
    arguments.add_argument("--seed", type=int, default=1, help="of the first round")
    arguments.add_argument("--rounds", type=int, help="at most so many rounds, instead of --points")
    options = arguments.parse_args()
    fast = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="crash-points-", dir=fast if fast.is_dir() else None))

    def stop(*_: object) -> None:
        shutil.rmtree(folder)
        os._exit(128 + signal.SIGTERM)  # the processes of the pool see that, and end too

    signal.signal(signal.SIGTERM, stop)
    try:
        template = folder / "template.db"
        upgrade(f"sqlite:///{template}")
        seeds = range(options.seed, options.seed + options.rounds) if options.rounds else count(options.seed)
        tally, broken = _play_all(template, folder, iter(seeds), options)
    finally:
        shutil.rmtree(folder)
    _print(tally, broken)
    return 1 if broken else 0


def _play_all(template: Path, folder: Path, seeds: object, options: argparse.Namespace) -> tuple[Tally, list[str]]:
    tally, broken = Tally(), list[str]()
    told_at, began_at = time.monotonic(), time.monotonic()
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn"), end_with_parent) as pool:
        running: set[Future[Tally]] = set()
        while True:
            enough = not options.rounds and tally.deaths.total() >= options.points
            while not enough and not broken and len(running) < options.processes:
                seed = next(seeds, None)  # type: ignore[call-overload]
                if seed is None:
                    break
                running.add(pool.submit(play, template, folder, seed, leads=options.leads))
            if not running:
                return tally, broken
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for round_ in done:
                try:
                    tally.add(round_.result())
                except ContractBroken as error:
                    broken.append(str(error))
            if time.monotonic() - told_at > PROGRESS_S:
                told_at = time.monotonic()
                print(f"{tally.deaths.total():,} deaths in {told_at - began_at:,.0f} s", file=sys.stderr, flush=True)


def _print(tally: Tally, broken: list[str]) -> None:
    console = Console(width=120)
    kinds = sorted(tally.deaths.items(), key=lambda kind: -kind[1])
    console.print(f"{tally.leads:,} leads, {tally.calls:,} calls, {tally.strays:,} strays that were hung up")
    console.print("deaths: " + ", ".join(f"{times:,} {what}" for what, times in kinds), highlight=False)
    console.print("leads: " + ", ".join(f"{times:,} {end}" for end, times in tally.ends.most_common()), highlight=False)
    for problem in broken:
        console.print(problem, style="red")
    print_figures(
        "Simulated crash points",
        [
            Figure("points at which a process died", POINTS, "", [tally.deaths.total()], at_least=True),
            Figure("rounds with a double dial, a lost lead or a lost count", 0, "", [len(broken)]),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
