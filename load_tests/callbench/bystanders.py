"""CPU of the processes that have no part in a measurement, by the core on which each was last seen."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from load_tests.callbench.processes import TICKS_PER_S

KTHREADD = 2
"""The parent of the kernel's threads. Their work is the network's and the disk's, done for somebody else."""


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """Of one process: `started` and `cpu` in jiffies (proc(5), /proc/pid/stat)."""

    parent: int
    cpu: int
    started: int
    core: int


def parse_process(text: str) -> ProcessTimes:
    """A `/proc/pid/stat`. The name may hold blanks and brackets: fields are counted after the last bracket."""
    fields = text.rpartition(")")[2].split()
    return ProcessTimes(int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19]), int(fields[36]))


def all_processes() -> dict[int, ProcessTimes]:
    """Every process of the machine (of this container, where it is one)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
                found[int(entry.name)] = parse_process(text)
    return found


class Bystanders:
    """Adds up between looks; a process that begins and ends between two of them is not seen."""

    def __init__(self) -> None:
        self._before: dict[tuple[int, int], int] = {}
        self._used: dict[int, int] = {}

    def look(self, processes: Mapping[int, ProcessTimes], *, own: Collection[int]) -> None:
        """`own`: ids of the processes that are measured themselves. The first look is the beginning."""
        began = not self._before
        seen = {}
        for pid, times in processes.items():
            if pid in own or KTHREADD in (pid, times.parent):
                continue
            key = pid, times.started
            seen[key] = times.cpu
            # One that was not there before has used all of its time since.
            spent = times.cpu - self._before.get(key, times.cpu if began else 0)
            self._used[times.core] = self._used.get(times.core, 0) + spent
        self._before = seen or {(0, 0): 0}

    def cpu_s(self, core: int) -> float:
        """Since the first look."""
        return self._used.get(core, 0) / TICKS_PER_S
