"""The soak over time, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from load_tests.soak.counts import OURS
from load_tests.soak.verdict import NEVER, P99, warm_up_samples


def draw(samples: Sequence[Mapping[str, float]], file: Path, *, title: str) -> None:
    """Memory by group, descriptors and tasks, p99 of the added latency; the warm-up shaded."""
    minutes = [sample["minute"] for sample in samples]
    figure, (memory, counts, latency) = plt.subplots(3, 1, figsize=(9, 9), sharex=True)
    for group in (*OURS, "Redis"):
        memory.plot(minutes, [sample.get(f"rss_mb {group}", 0.0) for sample in samples], label=group)
    memory.set_ylabel("resident memory, MB")
    for name in ("fds", "sockets", "threads", "tasks"):
        totals = [sum(value for key, value in sample.items() if key.startswith(f"{name} ")) for sample in samples]
        counts.plot(minutes, totals, label=name)
    counts.plot(minutes, [sample.get("redis keys without end", 0.0) for sample in samples], label="lasting Redis keys")
    counts.set_ylabel("count, all processes")
    known = [(sample["minute"], sample[P99]) for sample in samples if sample.get(P99, NEVER) < NEVER]
    latency.plot([minute for minute, _ in known], [value for _, value in known], label="p99")
    latency.set_ylabel("added latency, ms")
    latency.set_xlabel("minutes")
    for axis in (memory, counts, latency):
        axis.set_ylim(bottom=0)
        axis.axvspan(minutes[0], minutes[min(len(minutes) - 1, warm_up_samples(len(minutes)))], alpha=0.12)
        axis.legend(loc="upper left", fontsize="small")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
