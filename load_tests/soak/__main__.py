"""`make bench-soak`: callbench's calls against the whole platform for half an hour, and whether anything grows.

Writes `result.json` and `soak.png` to --out; prints aim, figure, PASS or MISS. Ends by itself, with what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from load_tests.callbench.calibrate import scenario_due
from load_tests.callbench.comparison import ours_in
from load_tests.callbench.report import commit, machine
from load_tests.callbench.startup import say, side_by_side, take_cores
from load_tests.callbench.systems.parley import Parley
from load_tests.soak.counts import private_redis
from load_tests.soak.plot import draw
from load_tests.soak.run import Plan, Soak
from load_tests.soak.verdict import Line, is_void_altogether, judged, void_minutes

CAPACITY_SHARE = 0.7
EXIT_VOID = 3
LADDER = Path("load_tests/results/callbench/result.json")


def main() -> int:
    """The exit code is 1 when something grew, or a call, a turn or a barge-in failed; 3 for a void soak."""
    chosen = _arguments()
    cores = take_cores()
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    plan = Plan(chosen.calls or _share_of_capacity(chosen.ladder), chosen.minutes, chosen.sample_s)
    began = datetime.now(UTC)
    samples = _measure(plan, chosen.calls_per_process, cores, out)
    lines, void = judged(samples), is_void_altogether(samples)
    result = {
        "began": began.isoformat(timespec="seconds"),
        "machine": machine(),
        "commit": commit(),
        "calls": plan.calls,
        "minutes": plan.minutes,
        "sample_s": plan.sample_s,
        "verdict": [
            {"name": line.name, "aim": line.aim, "figure": line.figure, "passed": line.passed} for line in lines
        ],
        "void": void,
        "void_minutes": void_minutes(samples),
        "samples": samples,
    }
    (out / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    draw(samples, out / "soak.png", title=f"{plan.calls} calls for {plan.minutes:g} minutes")
    _print(lines, void, len(void_minutes(samples)))
    print(f"written: {out / 'result.json'}, {out / 'soak.png'}")
    if void:
        return EXIT_VOID
    return 0 if all(line.passed for line in lines) else 1


def _measure(plan: Plan, calls_per_process: int | None, cores: tuple[int, int], out: Path) -> list[dict[str, float]]:
    due = scenario_due()
    system = Parley(calls_per_process)
    with side_by_side(system, cores=cores, max_calls=plan.calls, logs=out / "logs") as load:

        async def soak() -> list[dict[str, float]]:
            client = private_redis(system.tree().members())
            async with load.phones():
                return await Soak(system, load, plan, due=due, cores=cores, redis_client=client, show=say).run()

        return asyncio.run(soak())


def _print(lines: list[Line], void: bool, left_out: int) -> None:
    title = "Soak"
    if left_out:
        title += f": {left_out} samples were not measured as they must be, "
        title += "VOID, it says nothing" if void else "and are left out of the latency"
    table = Table(title=title, title_justify="left")
    for column in ("measure", "aim", "figure", ""):
        table.add_column(column, no_wrap=True)
    for line in lines:
        table.add_row(line.name, line.aim, line.figure, "VOID" if void else "PASS" if line.passed else "MISS")
    Console(width=max(120, Console().width)).print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.soak", description=__doc__)
    parser.add_argument("--calls", type=int, help="concurrent calls; default: 70 %% of what the ladder found")
    parser.add_argument("--ladder", type=Path, default=LADDER, help="callbench's result.json")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--sample-s", type=float, default=60, help="seconds per sample")
    parser.add_argument("--calls-per-process", type=int, help="of the sessions; default: the shipped file's")
    parser.add_argument("--out", type=Path, default=Path("load_tests/results/soak"))
    return parser.parse_args()


def _share_of_capacity(ladder: Path) -> int:
    """Calls for a soak, from the measured capacity. Raises SystemExit with the remedy."""
    try:
        largest = ours_in(json.loads(ladder.read_text(encoding="utf-8")))["largest_passing_calls"]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(
            f"{ladder} does not tell the capacity ({error!r}): run `make bench-calls`, or pass --calls"
        ) from None
    return max(1, int(largest * CAPACITY_SHARE))


if __name__ == "__main__":
    sys.exit(main())
