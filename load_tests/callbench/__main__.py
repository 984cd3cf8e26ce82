"""`python -m load_tests.callbench`: the systems in turns, each started afresh, up its ladder, round after round.

Writes `result.json`, `result.md`, plots and each system's logs to --out, and prints the tables. Ends every process that
it started.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from load_tests.callbench.arguments import arguments, steps_of, system_named
from load_tests.callbench.calibrate import scenario_due
from load_tests.callbench.ladder import Ladder
from load_tests.callbench.outcome import Round
from load_tests.callbench.plan import Plan
from load_tests.callbench.plots import draw
from load_tests.callbench.records import Due
from load_tests.callbench.report import SystemResult, document, markdown, print_tables, write_json
from load_tests.callbench.startup import say, side_by_side, take_cores
from serve_app.errors import ParleyError

PUBLISHED = {"latency.png": "calls-latency.png", "cost.png": "calls-cost.png", "result.json": "callbench.json"}
START_S = {"parley": 130.0}
"""For the estimate only; other systems start in seconds."""


def main() -> int:
    """The exit code is 1 when a system could not be measured, whatever the figures of the others."""
    chosen = arguments()
    # Of the added latency this would subtract what the model is asked early: a gain, but not the system's own delay.
    os.environ["PARLEY_CALL__SPECULATION__ENABLED"] = str(chosen.drafts).lower()
    plans = {name: plan_of(name, chosen) for name in chosen.systems}
    once_s = sum(plan.estimate_s(START_S.get(name.partition(":")[0], 8.0)) for name, plan in plans.items())
    say(f"{chosen.rounds} rounds of {', '.join(chosen.systems)}: about {chosen.rounds * once_s / 60:.0f} minutes")
    cores = take_cores()
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    began = datetime.now(UTC)
    due = scenario_due()
    results = {name: SystemResult(name, system_named(name).groups) for name in chosen.systems}
    for number in range(chosen.rounds):
        for name in in_turns(chosen.systems, number):
            say(f"round {number + 1}: {name}")
            run_round(results[name], lambda result, logs: _climb(result, plans[result.name], cores, due, out / logs))
            # After each climb: a run that is broken off keeps what it has.
            command = {key: str(value) for key, value in vars(chosen).items()}
            found = document(list(results.values()), command=command, started_at=began.isoformat(timespec="seconds"))
            write_json(found, out / "result.json")
    told = list(results.values())
    files = draw(told, out)
    (out / "result.md").write_text(markdown(told), encoding="utf-8")
    print_tables(told)
    if chosen.publish is not None:
        files += publish(out, chosen.publish)
    print("written:", ", ".join(str(file) for file in [out / "result.json", out / "result.md", *files]))
    return 1 if any(result.errors for result in told) else 0


def in_turns(systems: Sequence[str], round_number: int) -> list[str]:
    """Every second round backwards: what drifts with the hour meets all of them alike."""
    return list(systems if round_number % 2 == 0 else reversed(systems))


def plan_of(name: str, chosen: argparse.Namespace) -> Plan:
    return Plan(
        steps=steps_of(name, chosen.steps),
        step_s=chosen.step_s,
        rounds=chosen.rounds,
        longest_s=chosen.longest_s,
        base_s=chosen.base_s,
        settle_s=chosen.settle_s,
        turns=chosen.turns,
    )


def publish(out: Path, folder: Path) -> list[Path]:
    """Copy what the documentation shows."""
    return [
        Path(shutil.copyfile(out / name, folder / published))
        for name, published in PUBLISHED.items()
        if (out / name).exists()
    ]


def run_round(result: SystemResult, climb: Callable[[SystemResult, str], None]) -> None:
    """`climb(result, folder for logs)`, noting what went wrong.

    A system that does not start is started once more: on one core, Ray ends its own start when its dashboard's agent
    takes over 15 s.
    """
    number = len(result.rounds) + len(result.errors) + 1
    folder = f"{result.name.replace(':', '-')}-logs-{number}"
    try:
        try:
            climb(result, folder)
        except ParleyError as failure:
            result.failed_starts.append(f"round {number}: {failure}")
            say(f"{result.name}: {failure}; once more")
            climb(result, folder)
    except (ParleyError, OSError, RuntimeError) as failure:
        result.errors.append(f"round {number}: {type(failure).__name__}: {failure}")
        say(f"{result.name}: {result.errors[-1]}")


def _climb(result: SystemResult, plan: Plan, cores: tuple[int, int], due: dict[str, Due], logs: Path) -> None:
    """One round of one system, added to its result. Raises ParleyError when it does not start."""
    system = system_named(result.name)
    with side_by_side(system, cores=cores, max_calls=max(plan.steps), logs=logs) as load:
        result.about = system.about()

        async def climb() -> Round:
            async with load.phones():
                return await Ladder(system, load, plan, due=due, cores=cores, show=say).run()

        result.rounds.append(asyncio.run(climb()))


if __name__ == "__main__":
    sys.exit(main())
