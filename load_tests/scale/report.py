"""A run as JSON, and its timeline as a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from load_tests.scale.scenario import Scenario
from load_tests.scale.traffic import Placed
from load_tests.scale.verdicts import GROWING, Outcome, Verdict


def underruns(calls: Sequence[Placed]) -> str:
    """For the record, without an aim: replicas that start take both cores from the calls."""
    broken = [call.underruns for call in calls if call.underruns]
    return f"underruns: {sum(broken)} in {len(broken)} of {len(calls)} calls"


def write(folder: Path, scenario: Scenario, outcome: Outcome, verdicts: Sequence[Verdict]) -> Path:
    """The run as JSON, and its timeline as PNG beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "scenario": asdict(scenario),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "changes": [asdict(change) for change in outcome.changes],
        "timeline": [sample.document() for sample in outcome.samples],
        "calls": [asdict(call) | {"setup_s": call.setup_s} for call in outcome.calls],
    }
    file = folder / f"{scenario.name}.json"
    file.write_text(json.dumps(document, indent=1))
    plot(folder / f"{scenario.name}.png", scenario, outcome)
    return file


def plot(file: Path, scenario: Scenario, outcome: Outcome) -> None:
    """Three panels over the same seconds: calls and slots, replicas, loop lag. Changes are shaded."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    samples = outcome.samples
    at = [sample.at_s for sample in samples]
    figure, (calls, replicas, lag) = pyplot.subplots(3, 1, sharex=True, figsize=(9, 8), layout="constrained")
    calls.plot(at, [sample.talking for sample in samples], label="calls with media")
    calls.plot(at, [sample.slots for sample in samples], label="slots offered", linestyle="--")
    calls.plot(at, [sample.refused for sample in samples], label="refused so far", linestyle=":")
    calls.plot(at, [sample.cut for sample in samples], label="cut so far", color="red")
    calls.set_ylabel("calls")
    for name in GROWING:
        replicas.step(at, [sample.running(name) for sample in samples], where="post", label=name)
    replicas.set_ylabel("running replicas")
    lag.plot(at, [sample.lag_p95_ms for sample in samples], label="worst replica, p95 over 5 s")
    lag.set_ylabel("loop lag, ms")
    lag.set_xlabel("seconds")
    for change in outcome.changes:
        for panel in (calls, replicas, lag):
            panel.axvspan(change.began_s, change.done_s or at[-1], color="grey", alpha=0.15)
        calls.text(change.began_s, 0.3, change.change.name, rotation=90, fontsize="small", verticalalignment="bottom")
    for panel in (calls, replicas, lag):
        panel.legend(loc="upper right", fontsize="small")
        panel.grid(alpha=0.3)
    limits = f"hard stop {scenario.hard_stop_s} s, draining {scenario.draining_s} s, calls of {scenario.call_s} s"
    figure.suptitle(f"{scenario.name}: {limits}")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
