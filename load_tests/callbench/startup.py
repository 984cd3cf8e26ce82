"""What every long run begins and ends with: a core for each side, a folder for data, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from load_tests.callbench.child import MARK
from load_tests.callbench.load_side import LoadSide
from load_tests.callbench.processes import ProcessTree, end_all, one_group, pin_threads
from load_tests.callbench.systems.base import Place, System


def take_cores() -> tuple[int, int]:
    """(the system's core, the load side's). This process moves to the latter, and SIGTERM ends it in order.

    Raises SystemExit on a machine with one core.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("this needs two cores: one for the system under test, one for the load side")
    pin_threads(os.getpid(), {cores[1]})
    signal.signal(signal.SIGTERM, _stop)
    return cores[0], cores[1]


@contextlib.contextmanager
def side_by_side(system: System, *, cores: tuple[int, int], max_calls: int, logs: Path) -> Iterator[LoadSide]:
    """A system that takes calls and a load side that can place them, each on its core; both are ended.

    Raises ParleyError, OSError or RuntimeError when either does not start.
    """
    with data_folder(logs) as folder, process_mark() as system_mark, process_mark() as load_mark:
        load = LoadSide(core=cores[1], mark=load_mark, folder=folder)
        try:
            load.start()
            say(f"{system.name}: starting")
            system.start(Place(cores[0], system_mark, load.simulators_url, folder, max_calls))
            yield load
        finally:
            system.stop()
            load.stop()


@contextlib.contextmanager
def data_folder(logs: Path) -> Iterator[Path]:
    """A folder for a system's data; its logs are kept in `logs`, its data is not."""
    with tempfile.TemporaryDirectory(prefix="callbench-") as name:
        folder = Path(name)
        try:
            yield folder
        finally:
            found = [*folder.glob("*.log"), *folder.glob("*/logs/*.log")]
            if found:
                logs.mkdir(parents=True, exist_ok=True)
            for log in found:
                (logs / log.name).write_bytes(log.read_bytes())


@contextlib.contextmanager
def process_mark() -> Iterator[str]:
    """A mark for one side's processes; whatever still carries it afterwards is ended."""
    mark = secrets.token_hex(8)
    try:
        yield mark
    finally:
        left = ProcessTree([], one_group("left"), mark=f"{MARK}={mark}").members(orphans=True)
        if left:
            say(f"ending what was left: {', '.join(f'{process.pid} ({process.name()})' for process in left)}")
        end_all(left)


def say(line: str) -> None:
    """Progress, with the time of day."""
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
