"""The plots of a result: latency over calls, and what a call costs by process group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from load_tests.callbench.report import SystemResult
from load_tests.callbench.search import MAX_ADDED_P95_MS
from load_tests.callbench.steps import StepFigures


def draw(results: Sequence[SystemResult], folder: Path) -> list[Path]:
    """Write each plot as PNG and SVG. Systems without a figure are left out."""
    shown = [result for result in results if result.outcome is not None and result.outcome.steps]
    if not shown:
        return []
    return [*_latency(shown, folder), *_cost(shown, folder)]


def _latency(results: Sequence[SystemResult], folder: Path) -> list[Path]:
    """Over the calls that really were up, not over those that were asked for."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for result in results:
        assert result.outcome is not None
        steps = sorted(result.outcome.steps, key=lambda step: step.mean_concurrent)
        (line,) = axes.plot(
            [step.mean_concurrent for step in steps], [_p95(step) for step in steps], marker="o", label=result.name
        )
        for mark, status in (("x", "VOID"), ("X", "MISS")):
            marked = [step for step in steps if step.verdict.status == status]
            axes.plot(
                [step.mean_concurrent for step in marked],
                [_p95(step) for step in marked],
                mark,
                color="black" if status == "VOID" else line.get_color(),
                markersize=11,
            )
    axes.axhline(MAX_ADDED_P95_MS, color="grey", linestyle="--", linewidth=1, label=f"{MAX_ADDED_P95_MS:g} ms")
    axes.set_yscale("log")
    axes.set_xlabel("calls that were up on one core (X: the step is a miss; thin x: void)")
    axes.set_ylabel("added latency p95, ms")
    axes.set_title("What the system adds to the wait for an answer")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    return _save(figure, folder / "latency")


def _cost(results: Sequence[SystemResult], folder: Path) -> list[Path]:
    """One bar per step, the groups stacked; idle base included, and drawn apart as hatched."""
    figure, all_axes = plt.subplots(
        1, len(results), figsize=(4 * len(results) + 2, 4.5), layout="constrained", sharey=True, squeeze=False
    )
    for axes, result in zip(all_axes[0], results, strict=True):
        assert result.outcome is not None
        steps = [step for step in result.outcome.steps if step.calls >= min(10, result.outcome.steps[-1].calls)]
        places = range(len(steps))
        bottom = [0.0] * len(steps)
        for group in result.groups:
            # A group that used less than when it was idle did not pay back: it cost nothing.
            heights = [max(0.0, step.cpu_above_base_ms_per_call_s.get(group, 0.0)) for step in steps]
            axes.bar(places, heights, bottom=bottom, label=group)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        base = [max(0.0, s.cpu_total_ms_per_call_s - s.cpu_total_above_base_ms_per_call_s) for s in steps]
        axes.bar(places, base, bottom=bottom, color="none", edgecolor="grey", hatch="///", label="idle base")
        axes.set_xticks(list(places), [f"{step.mean_concurrent:.0f}" for step in steps])
        axes.set_xlabel("calls that were up")
        axes.set_title(result.name)
        axes.legend(fontsize="small")
    all_axes[0][0].set_ylabel("CPU, ms per call-second")
    return _save(figure, folder / "cost")


def _p95(step: StepFigures) -> float:
    """Nothing is drawn where there is none, or where it is infinite."""
    p95 = step.added_ms.p95
    return math.nan if p95 is None or math.isinf(p95) else p95


def _save(figure: Figure, stem: Path) -> list[Path]:
    files = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    for file in files:
        figure.savefig(file, dpi=120)
    plt.close(figure)
    return files
