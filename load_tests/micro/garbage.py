"""`python -m load_tests.micro.garbage`: what a full collection takes of a session process, before and after `settle`.

The objects are those of the modules that a session process has loaded, and of calls' worth of turns on top. A full
collection stops every call of the process for as long. CPU time of one collection in ms, no Ray started.
"""

from __future__ import annotations

import gc
import time
from typing import Any

from load_tests.micro import figures
from load_tests.micro.figures import Figure, print_figures
from serve_app import garbage

OBJECTS_OF_CALLS = 50_000
"""Containers alive beside the modules: those of some tens of calls."""
AIM_MS = 10.0


def collections_ms() -> list[float]:
    """CPU time of full collections, one per round."""
    rounds = []
    for _ in range(figures.ROUNDS):
        began = time.thread_time()
        gc.collect()
        rounds.append((time.thread_time() - began) * 1000)
    return rounds


def full_collection() -> tuple[Figure, Figure]:
    """As Python has it, and as a session process has it. This process' own collector is as before afterwards."""
    import deployments.sessions  # noqa: F401 - a session process' modules, Ray Serve among them

    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    # The platform settles before its first call, so that calls' objects are never frozen.
    of_calls: list[Any] = [[number] for number in range(OBJECTS_OF_CALLS)]
    before = collections_ms()
    del of_calls
    garbage.settle()
    try:
        of_calls = [[number] for number in range(OBJECTS_OF_CALLS)]
        after = collections_ms()
    finally:
        if frozen == 0:
            gc.unfreeze()
        gc.set_threshold(*thresholds)
    del of_calls
    name = f"full collection beside {OBJECTS_OF_CALLS:,} objects of calls"
    return Figure(f"{name}, unsettled", AIM_MS, "ms", before), Figure(f"{name}, settled", AIM_MS, "ms", after)


if __name__ == "__main__":
    print_figures("Garbage collection", full_collection())
