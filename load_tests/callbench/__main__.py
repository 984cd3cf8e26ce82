"""`python -m load_tests.callbench`: one system after the other, each started afresh, up its ladder.

Writes `result.json`, plots and each system's logs to --out, and prints the tables. Ends every process that it started.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from load_tests.callbench.calibrate import scenario_due
from load_tests.callbench.ladder import BASE_S, SETTLE_S, Ladder, Outcome, Plan
from load_tests.callbench.plots import draw
from load_tests.callbench.records import Due
from load_tests.callbench.report import SystemResult, document, print_tables
from load_tests.callbench.startup import say, side_by_side, take_cores
from load_tests.callbench.systems.bare import Bare
from load_tests.callbench.systems.base import System
from load_tests.callbench.systems.floor import Floor
from load_tests.callbench.systems.parley import Parley
from load_tests.callbench.systems.pipecat import Pipecat
from serve_app.errors import ParleyError

SYSTEMS = "parley,bare,floor,pipecat"
STEPS = (1, 10, 20, 40, 60, 80, 100)


def main() -> int:
    """The exit code is 1 when a system could not be measured, whatever the figures of the others."""
    arguments = _arguments()
    cores = take_cores()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    began = datetime.now(UTC)
    due = scenario_due()
    results: list[SystemResult] = []
    for name in arguments.systems:
        system = _system(name)
        results.append(_measure(system, arguments, cores, due))
        # After each system: a run that is broken off keeps what it has.
        command = {key: str(value) for key, value in vars(arguments).items()}
        found = document(results, command=command, started_at=began.isoformat(timespec="seconds"))
        (out / "result.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    files = draw(results, out)
    print_tables(results)
    print("written:", ", ".join(str(file) for file in [out / "result.json", *files]))
    return 1 if any(result.error for result in results) else 0


def _measure(
    system: System, arguments: argparse.Namespace, cores: tuple[int, int], due: dict[str, Due]
) -> SystemResult:
    plan = Plan(arguments.steps, arguments.step_s, arguments.refine, arguments.base_s, arguments.settle_s)
    outcome: Outcome | None = None
    error: str | None = None
    about: dict[str, object] = {}
    logs = arguments.out / f"{system.name.replace(':', '-')}-logs"
    try:
        with side_by_side(system, cores=cores, max_calls=max(arguments.steps), logs=logs) as load:
            about = system.about()

            async def climb() -> Outcome:
                async with load.phones():
                    return await Ladder(system, load, plan, due=due, cores=cores, show=say).run()

            outcome = asyncio.run(climb())
    except (ParleyError, OSError, RuntimeError) as failure:
        error = f"{type(failure).__name__}: {failure}"
        say(f"{system.name}: {error}")
    return SystemResult(system.name, about, system.groups, outcome, error)


def _system(name: str) -> System:
    """Raises ValueError for a name that is none."""
    kind, _, calls_per_process = name.partition(":")
    if kind == "parley":
        return Parley(int(calls_per_process) if calls_per_process else None)
    made: dict[str, Callable[[], System]] = {"bare": Bare, "floor": Floor, "pipecat": Pipecat}
    if name not in made:
        raise ValueError(name)
    return made[name]()


def _arguments() -> argparse.Namespace:
    def systems(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            try:
                _system(name)
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"no system {name!r}; known: {SYSTEMS}, parley:N") from error
        return chosen

    def steps(text: str) -> list[int]:
        numbers = sorted({int(number) for number in text.split(",")})
        if numbers[0] < 1:
            raise argparse.ArgumentTypeError("a step has at least one call")
        return numbers

    parser = argparse.ArgumentParser(prog="python -m load_tests.callbench", description=__doc__)
    parser.add_argument(
        "--systems",
        type=systems,
        default=SYSTEMS.split(","),
        help="in this order: parley (parley:N has N calls per process), bare (its pipeline without Ray), floor (a "
        "featureless server), pipecat",
    )
    parser.add_argument("--steps", type=steps, default=list(STEPS), help="concurrent calls, for example 1,10,20")
    parser.add_argument("--step-s", type=float, default=60, help="measured seconds per step")
    parser.add_argument("--base-s", type=float, default=BASE_S, help="idle seconds that give the base")
    parser.add_argument("--settle-s", type=float, default=SETTLE_S, help="rest after the start and the warm-up")
    parser.add_argument("--refine", action="store_true", help="one more value, halfway to the first step that failed")
    parser.add_argument("--out", type=Path, default=Path("load_tests/results/callbench"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
