"""Verdicts, JSON and the timeline plot of a run."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from load_tests.scale.scenario import FIRST_AUDIO_LIMIT_S, Scenario
from load_tests.scale.traffic import Placed
from load_tests.scale.watch import Sample

GROWING = ("CallSessions", "CodecPool", "MediaIngress")


@dataclass(frozen=True)
class Verdict:
    aim: str
    figure: str
    passed: bool

    def line(self) -> str:
        return f"{'PASS' if self.passed else 'MISS'}  {self.aim}: {self.figure}"


def judge(scenario: Scenario, calls: Sequence[Placed], samples: Sequence[Sample]) -> list[Verdict]:
    """What the run has shown. The control is judged by what it must do to calls."""
    cut = [call for call in calls if call.fate == "cut"]
    if scenario.must_cut:
        return [Verdict("the control cuts calls, so that the others can fail", f"{len(cut)} cut", bool(cut))]
    answered = [call.first_audio_s for call in calls if call.first_audio_s is not None]
    longest_wait_s = max(answered, default=0.0)
    late = [value for value in answered if value > FIRST_AUDIO_LIMIT_S]
    longest_s = max((call.ended_s - call.media_s for call in calls if call.ended_s and call.media_s), default=0.0)
    limit_s = max(scenario.hard_stop_s, scenario.draining_s)
    open_still = [call for call in calls if call.live]
    verdicts = [
        Verdict("no call cut", f"{len(cut)} of {len(calls)}" + "".join(f"; {c.detail}" for c in cut[:3]), not cut),
        Verdict(
            f"no call's first audio later than {FIRST_AUDIO_LIMIT_S:g} s",
            f"{len(late)} of {len(answered)}, median {_median(answered):.2f} s, longest {longest_wait_s:.2f} s",
            bool(answered) and not late,
        ),
        Verdict(
            f"calls outlive Serve's limits, {limit_s} s",
            f"longest {longest_s:.0f} s",
            longest_s > limit_s,
        ),
        Verdict("every call has ended", f"{len(open_still)} still open", not open_still),
        Verdict("all deployments back at their minimum", _where(samples), bool(samples) and samples[-1].at_minimum),
    ]
    return verdicts + (_growth(scenario, calls, samples) if scenario.overload else [])


def underruns(calls: Sequence[Placed]) -> str:
    """For the record, without an aim: replicas that start take both cores from the calls."""
    broken = [call.underruns for call in calls if call.underruns]
    return f"underruns: {sum(broken)} in {len(broken)} of {len(calls)} calls"


def _growth(scenario: Scenario, calls: Sequence[Placed], samples: Sequence[Sample]) -> list[Verdict]:
    sessions, codecs, ingress = (max((s.running(name) for s in samples), default=0) for name in GROWING)
    inbound = [call for call in calls if call.direction == "inbound" and call.fate == "refused"]
    clean = all(call.detail == "spoken apology" for call in inbound)
    late = [call for call in calls if call.direction == "outbound" and call.media_s and call.media_s - call.asked_s > 3]
    early = [call for call in calls if call.fate == "refused" and call.asked_s < scenario.peak_at_s]
    return [
        Verdict("no call refused below capacity", f"{len(early)} refused", not early),
        Verdict("session replicas grow to hold the calls", f"1 -> {sessions} -> 1", sessions > 2),
        Verdict("codec replicas grow with their queue", f"1 -> {codecs} -> 1", codecs > 1),
        Verdict("ingress replicas grow with their sockets", f"1 -> {ingress} -> 1", ingress > 1),
        Verdict("beyond capacity inbound calls hear an apology", f"{len(inbound)} refused", bool(inbound) and clean),
        Verdict("beyond capacity outbound calls wait for slots", f"{len(late)} placed after waiting", bool(late)),
    ]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _where(samples: Sequence[Sample]) -> str:
    if not samples:
        return "nothing was sampled"
    return ", ".join(f"{name} {states}" for name, states in sorted(samples[-1].replicas.items()))


def write(
    folder: Path,
    scenario: Scenario,
    calls: Sequence[Placed],
    samples: Sequence[Sample],
    verdicts: Sequence[Verdict],
) -> Path:
    """The run as JSON, and its timeline as PNG beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    document: dict[str, Any] = {
        "scenario": asdict(scenario),
        "verdicts": [asdict(verdict) for verdict in verdicts],
        "timeline": [sample.document() for sample in samples],
        "calls": [asdict(call) for call in calls],
    }
    file = folder / f"{scenario.name}.json"
    file.write_text(json.dumps(document, indent=1))
    plot(folder / f"{scenario.name}.png", scenario, samples)
    return file


def plot(file: Path, scenario: Scenario, samples: Sequence[Sample]) -> None:
    """Three panels over the same seconds: calls and slots, replicas, loop lag."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

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
    for panel in (calls, replicas, lag):
        panel.legend(loc="upper right", fontsize="small")
        panel.grid(alpha=0.3)
    limits = f"hard stop {scenario.hard_stop_s} s, draining {scenario.draining_s} s, calls of {scenario.call_s} s"
    figure.suptitle(f"{scenario.name}: {limits}")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
