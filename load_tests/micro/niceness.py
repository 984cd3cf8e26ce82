"""`python -m load_tests.micro.niceness`: how late 20 ms timers fire beside starting processes, by niceness.

A roll-over starts a dozen processes that import for seconds. Here `BUSY_PER_CORE` loops per core stand for them, at the
niceness that Ray gives its workers; the process that keeps time has Ray's, a webhook's or a media replica's. Needs root
or CAP_SYS_NICE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.priority import MEDIA_NICENESS, WEBHOOK_NICENESS

RAY_NICENESS = 15
BUSY_PER_CORE = 3
TICK_S = 0.02
ROUNDS = 3
_BUSY = "while True: pass"
_KEEPS_TIME = "import sys; from load_tests.micro.niceness import lateness_ms; lateness_ms(float(sys.argv[1]))"


def lateness_ms(seconds: float) -> None:
    """Prints, for every tick of absolute 20 ms deadlines, by how many ms it came late."""
    late: list[float] = []
    began = due = time.monotonic()
    while due - began < seconds:
        due += TICK_S
        time.sleep(max(0.0, due - time.monotonic()))
        late.append((time.monotonic() - due) * 1000)
    print(json.dumps(late))


def measure(niceness: int, seconds: float, busy: int) -> list[float]:
    """Lateness of every tick of one process at this niceness beside so many busy ones."""

    def start(code: str, nice: int, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = ["nice", "-n", str(nice), sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, text=True, **options)

    loops = [start(_BUSY, RAY_NICENESS) for _ in range(busy)]
    try:
        keeper = start(_KEEPS_TIME, niceness, str(seconds), stdout=subprocess.PIPE)
        told, _ = keeper.communicate(timeout=seconds + 60)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    late: list[float] = json.loads(told)
    return late


def share(late: list[float], of: float) -> float:
    return sorted(late)[min(len(late) - 1, int(of * len(late)))]


def main() -> None:
    busy = BUSY_PER_CORE * (os.cpu_count() or 1)
    table = Table(title=f"20 ms timers beside {busy} busy processes of niceness {RAY_NICENESS}", title_justify="left")
    for column in ("niceness", "late: p50", "p99", "largest", "p99, spread over rounds"):
        table.add_column(column)
    rounds: dict[int, list[list[float]]] = {RAY_NICENESS: [], WEBHOOK_NICENESS: [], MEDIA_NICENESS: []}
    for _ in range(ROUNDS):
        for niceness, found in rounds.items():
            found.append(measure(niceness, 5.0, busy))
    for niceness, found in rounds.items():
        every = [late for one in found for late in one]
        worst = [share(one, 0.99) for one in found]
        figures = (share(every, 0.5), share(every, 0.99), max(every))
        cells = [f"{value:.2f} ms" for value in figures]
        table.add_row(str(niceness), *cells, f"{min(worst):.2f} - {max(worst):.2f} ms")
    Console(width=max(Console().width, 100)).print(table)


if __name__ == "__main__":
    main()
