"""The machine's cores: how busy each is, and how much of it another virtual machine took."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CoreTimes:
    """Jiffies of one core since boot (proc(5), /proc/stat). `interrupts` is a part of `busy` that no process is
    charged for: the network's work for it mostly."""

    busy: int
    steal: int
    total: int
    interrupts: int = 0

    def __sub__(self, earlier: CoreTimes) -> CoreTimes:
        return CoreTimes(
            self.busy - earlier.busy,
            self.steal - earlier.steal,
            self.total - earlier.total,
            self.interrupts - earlier.interrupts,
        )

    @property
    def busy_share(self) -> float:
        return self.busy / self.total if self.total else 0.0

    @property
    def interrupt_share(self) -> float:
        return self.interrupts / self.total if self.total else 0.0

    @property
    def steal_share(self) -> float:
        return self.steal / self.total if self.total else 0.0


def parse_stat(text: str) -> dict[int, CoreTimes]:
    """The cores of a `/proc/stat`."""
    cores = {}
    for line in text.splitlines():
        name, *rest = line.split()
        if not name.startswith("cpu") or name == "cpu":
            continue
        # guest and guest_nice are part of user and nice already.
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, rest[:8])
        busy = user + nice + system + irq + softirq
        cores[int(name[3:])] = CoreTimes(busy, steal, busy + idle + iowait + steal, irq + softirq)
    return cores


def core_times() -> dict[int, CoreTimes]:
    return parse_stat(Path("/proc/stat").read_text(encoding="ascii"))
