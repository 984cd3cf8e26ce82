"""The processes of a system: CPU by group, memory by group, and the core each of them may run on (Linux)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

Classify = Callable[[str, str], str]
"""(name, command line) of a process -> its group."""

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """Sums over a group's processes. `pss_kb`: shared pages divided among those who share them; `uss_kb`: private."""

    rss_kb: int = 0
    pss_kb: int = 0
    uss_kb: int = 0

    def __add__(self, other: Memory) -> Memory:
        return Memory(self.rss_kb + other.rss_kb, self.pss_kb + other.pss_kb, self.uss_kb + other.uss_kb)

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.rss_kb - other.rss_kb, self.pss_kb - other.pss_kb, self.uss_kb - other.uss_kb)


def one_group(name: str) -> Classify:
    """Everything belongs to one group."""
    return lambda process, command_line: name


class CpuLedger:
    """CPU seconds by group, over processes that come and go: what an ended process used is kept."""

    def __init__(self) -> None:
        self._used: dict[tuple[int, float], tuple[str, float]] = {}

    def note(self, pid: int, created: float, group: str, cpu_s: float) -> None:
        """The process has used `cpu_s` since it began. A process may change its title, and so its group, once up."""
        self._used[pid, created] = (group, cpu_s)

    def by_group(self) -> dict[str, float]:
        totals: dict[str, float] = {}
        for group, cpu_s in self._used.values():
            totals[group] = totals.get(group, 0.0) + cpu_s
        return totals


class ProcessTree:
    """Root processes and everything that they started, also what was handed over to init meanwhile."""

    def __init__(self, roots: Iterable[int], classify: Classify, *, mark: str | None = None) -> None:
        """`mark`: NAME=VALUE in the environment of every process of the system, to find those without a parent."""
        self._roots = tuple(roots)
        self._classify = classify
        self._mark = mark
        self._known: dict[int, psutil.Process] = {}
        self._ledger = CpuLedger()

    def members(self, *, orphans: bool = False) -> list[psutil.Process]:
        """The living ones. `orphans`: look through all processes of this user for the mark, which takes longer."""
        for pid in [*self._roots, *self._known]:
            with contextlib.suppress(psutil.Error):
                parent = self._known.get(pid) or psutil.Process(pid)
                if parent.is_running():
                    self._known[pid] = parent
                    for child in parent.children(recursive=True):
                        self._known.setdefault(child.pid, child)
        if orphans and self._mark is not None:
            for process in psutil.process_iter():
                if process.pid not in self._known and self._mark.encode() in _environment(process.pid):
                    self._known[process.pid] = process
        for pid, process in list(self._known.items()):
            if not process.is_running() or _state(pid) == "Z":
                del self._known[pid]
        return list(self._known.values())

    def pids(self) -> frozenset[int]:
        """Of those that were alive at the last look."""
        return frozenset(self._known)

    def cpu_by_group(self) -> dict[str, float]:
        """CPU seconds since each process began; of ended ones, what was last seen."""
        for process in self.members():
            with contextlib.suppress(psutil.Error, OSError, IndexError, ValueError):
                group = self._group(process)
                self._ledger.note(process.pid, process.create_time(), group, cpu_seconds(process.pid))
        return self._ledger.by_group()

    def memory_by_group(self) -> dict[str, Memory]:
        """Reads every page table: some milliseconds per process, so at the borders of a step only."""
        totals: dict[str, Memory] = {}
        for process in self.members():
            with contextlib.suppress(psutil.Error, OSError):
                group = self._group(process)
                totals[group] = totals.get(group, Memory()) + memory_of(process.pid)
        return totals

    def count_by_group(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                group = self._group(process)
                counts[group] = counts.get(group, 0) + 1
        return counts

    def not_on(self, core: int) -> list[str]:
        """Processes with a thread that may run elsewhere, for people to read. Empty: all are pinned to `core`."""
        offenders = []
        for process in self.members(orphans=True):
            with contextlib.suppress(psutil.Error, OSError):
                allowed = {frozenset(os.sched_getaffinity(thread)) for thread in _threads(process.pid)}
                if any(cores != {core} for cores in allowed):
                    offenders.append(f"{process.pid} ({self._group(process)}: {process.name()})")
        return offenders

    def _group(self, process: psutil.Process) -> str:
        return self._classify(process.name(), " ".join(process.cmdline()))


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads. Raises OSError when the process is gone."""
    # The name may hold blanks and brackets: fields are counted after the last bracket (proc(5), /proc/pid/stat).
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def memory_of(pid: int) -> Memory:
    """Raises OSError when the process is gone or belongs to somebody else."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        key, _, rest = line.partition(":")
        found[key] = int(rest.split()[0])
    return Memory(found["Rss"], found["Pss"], found["Private_Clean"] + found["Private_Dirty"])


def pin_threads(pid: int, cores: Iterable[int]) -> None:
    """All threads of a process, those that run already included."""
    for thread in _threads(pid):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(thread, cores)


def end_all(processes: Iterable[psutil.Process], grace_s: float = 5.0) -> None:
    """End these processes, by id: politely, then by force."""
    alive = [process for process in processes if process.is_running()]
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(alive, timeout=grace_s)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _threads(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]


def _environment(pid: int) -> list[bytes]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return []


def _state(pid: int) -> str:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    return "Z"
