"""The command line: which systems, which steps of each, how long."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from load_tests.callbench.plan import BASE_S, LONGEST_STEP_S, SETTLE_S, WANTED_TURNS
from load_tests.callbench.systems.bare import Bare
from load_tests.callbench.systems.base import System
from load_tests.callbench.systems.floor import Floor
from load_tests.callbench.systems.parley import Parley
from load_tests.callbench.systems.pipecat import Pipecat

SYSTEMS = "parley,bare,floor,pipecat"
STEPS = (1, 10, 20, 40, 60, 80, 100)
ALL = ""
"""Whose steps are meant by `--steps 1,10`: everybody's who has none of their own."""

StepsOf = tuple[str, Sequence[int]]


def system_named(name: str) -> System:
    """Raises ValueError for a name that is none."""
    kind, _, calls_per_process = name.partition(":")
    if kind == "parley":
        return Parley(int(calls_per_process) if calls_per_process else None)
    made: dict[str, Callable[[], System]] = {"bare": Bare, "floor": Floor, "pipecat": Pipecat}
    if name not in made:
        raise ValueError(name)
    return made[name]()


def steps_argument(text: str) -> StepsOf:
    """`1,10` or `parley=1,10`. Raises argparse.ArgumentTypeError."""
    name, equals, numbers = text.rpartition("=")
    if equals:
        _check_system(name)
    try:
        steps = sorted({int(number) for number in numbers.split(",")})
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{numbers!r} are no numbers of calls") from error
    if steps[0] < 1:
        raise argparse.ArgumentTypeError("a step has at least one call")
    return (name if equals else ALL), steps


def steps_of(name: str, chosen: Sequence[StepsOf]) -> Sequence[int]:
    """What was last said of this system, of its kind (`parley` for `parley:20`), or of all."""
    said: Mapping[str, Sequence[int]] = dict(chosen)
    return next((said[key] for key in (name, name.partition(":")[0], ALL) if key in said), STEPS)


def arguments(command_line: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.callbench",
        description="How many calls a core carries, how late the agent answers, and what a call costs.",
    )
    parser.add_argument(
        "--systems",
        type=_systems,
        default=SYSTEMS.split(","),
        help="in this order: parley (as shipped; parley:N has N calls per process), bare (its pipeline without Ray), "
        "floor (a featureless server), pipecat",
    )
    parser.add_argument(
        "--steps",
        type=steps_argument,
        action="append",
        default=[],
        help="concurrent calls: 1,10,20 for all systems, parley=1,40,60 for one; may be given several times",
    )
    parser.add_argument("--rounds", type=_at_least_one, default=2, help="of all systems, every second one backwards")
    parser.add_argument("--step-s", type=float, default=30, help="measured seconds per step and round, at least")
    parser.add_argument(
        "--longest-s", type=float, default=LONGEST_STEP_S, help="at most, where few calls give few samples"
    )
    parser.add_argument("--turns", type=int, default=WANTED_TURNS, help="wanted of a step, over all rounds")
    parser.add_argument(
        "--drafts",
        action="store_true",
        help="answers are begun before the turn is over, as shipped; otherwise off, as the peers do not",
    )
    parser.add_argument("--base-s", type=float, default=BASE_S, help="idle seconds that give the base")
    parser.add_argument("--settle-s", type=float, default=SETTLE_S, help="rest after the start and the warm-up")
    parser.add_argument("--out", type=Path, default=Path("load_tests/results/callbench"))
    parser.add_argument("--publish", type=Path, help="a folder (docs/figures) that gets a copy of plots and figures")
    return parser.parse_args(command_line)


def _systems(text: str) -> list[str]:
    chosen = text.split(",")
    for name in chosen:
        _check_system(name)
    return chosen


def _check_system(name: str) -> None:
    try:
        system_named(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no system {name!r}; known: {SYSTEMS}, parley:N") from error


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return number
