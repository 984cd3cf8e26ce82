"""What a run has shown, aim by aim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from load_tests.scale.changes import Seen, replaced
from load_tests.scale.scenario import FIRST_AUDIO_LIMIT_S, SETUP_LIMIT_S, UNDER_CHANGE, Scenario
from load_tests.scale.traffic import Placed
from load_tests.scale.watch import MINIMUM, Sample

GROWING = ("CallSessions", "CodecPool", "MediaIngress")
DETAILS = 3


@dataclass(frozen=True)
class Outcome:
    """All that a run has recorded."""

    calls: Sequence[Placed]
    samples: Sequence[Sample]
    changes: Sequence[Seen] = ()


@dataclass(frozen=True)
class Verdict:
    aim: str
    figure: str
    passed: bool

    def line(self) -> str:
        return f"{'PASS' if self.passed else 'MISS'}  {self.aim}: {self.figure}"


def judge(scenario: Scenario, outcome: Outcome) -> list[Verdict]:
    """A control is judged by what it must do to calls, and by what nothing may do to them."""
    verdicts = [_fates(scenario, outcome.calls), *_changes(scenario, outcome)]
    if scenario.must_cut:
        cut = [call for call in outcome.calls if call.fate == "cut" and call.media_s is not None]
        figure = f"{len(cut)} of {len(outcome.calls)}"
        return [Verdict("the control cuts calls, so that the others can fail", figure, bool(cut)), *verdicts]
    calls, samples = outcome.calls, outcome.samples
    cut = [call for call in calls if call.fate == "cut"]
    open_still = [call for call in calls if call.live]
    return [
        Verdict("no call cut", f"{len(cut)} of {len(calls)}{_details(cut)}", bool(calls) and not cut),
        *verdicts,
        *_delays(scenario, calls),
        *_lengths(scenario, outcome),
        Verdict("every call has ended", f"{len(open_still)} still open", not open_still),
        Verdict("all deployments back at their minimum", _where(samples), bool(samples) and samples[-1].at_minimum),
        *(_growth(scenario, calls, samples) if scenario.overload else ()),
    ]


def _fates(scenario: Scenario, calls: Sequence[Placed]) -> Verdict:
    """Cut calls are judged by themselves; refusals are expected where more calls are asked for than fit."""
    expected = {"completed", "open", "cut"} | ({"refused"} if scenario.overload else set())
    others = [call for call in calls if call.fate not in expected]
    aim = "no call given up unplaced" if scenario.overload else "no call refused or given up unplaced"
    return Verdict(aim, f"{len(others)}{_details(others)}", not others)


def _delays(scenario: Scenario, calls: Sequence[Placed]) -> Iterator[Verdict]:
    """Each call by itself. Beyond capacity outbound calls must wait for slots: set-up is judged without those."""
    prompt = [c for c in calls if c.fate != "refused" and not (scenario.overload and _may_wait(scenario, c))]
    yield _within("every call has media in time", [call.setup_s for call in prompt], SETUP_LIMIT_S)
    connected = [call.first_audio_s for call in calls if call.media_s is not None]
    yield _within("on every open line the agent is heard in time", connected, FIRST_AUDIO_LIMIT_S)


def _may_wait(scenario: Scenario, call: Placed) -> bool:
    return call.direction == "outbound" and call.asked_s >= scenario.peak_at_s


def _within(aim: str, values: Sequence[float | None], limit_s: float) -> Verdict:
    """A value that is missing never came: it is beyond any limit."""
    seconds = [math.inf if value is None else value for value in values]
    late = [value for value in seconds if value > limit_s]
    middle = statistics.median(seconds) if seconds else math.inf
    figure = (
        f"{len(late)} of {len(seconds)} late; median {middle:.2f} s, longest {max(seconds, default=math.inf):.2f} s"
    )
    return Verdict(f"{aim}, {limit_s:g} s", figure, bool(seconds) and not late)


def _lengths(scenario: Scenario, outcome: Outcome) -> Iterator[Verdict]:
    """Calls in both directions are longer than Serve's limits: the shortest counts, of those up during a change."""
    limit_s = max(scenario.hard_stop_s, scenario.draining_s)
    ended = [call for call in outcome.calls if call.media_s is not None and call.ended_s is not None]
    if outcome.changes:
        ended = [c for c in ended if any(c.up_during(s.began_s, s.done_s or math.inf) for s in outcome.changes)]
    for direction in ("inbound", "outbound"):
        lengths = [call.media_length_s for call in ended if call.direction == direction]
        shortest_s = min(lengths, default=0.0)
        yield Verdict(
            f"{direction} calls outlive Serve's limits, {limit_s} s",
            f"the shortest of {len(lengths)} lasted {shortest_s:.0f} s",
            shortest_s > limit_s,
        )


def _changes(scenario: Scenario, outcome: Outcome) -> Iterator[Verdict]:
    """By replica ids: what was there before is gone, its successors run, and calls were up all the time."""
    for number, change in enumerate(scenario.changes):
        seen = outcome.changes[number] if number < len(outcome.changes) else None
        if seen is None:
            yield Verdict(f"{change.name} is made", "never begun", False)
            continue
        took = "not through" if seen.done_s is None else f"through after {seen.done_s - seen.began_s:.0f} s"
        if change.kind == "ingress":
            yield Verdict(f"{change.name} is made", took, seen.done_s is not None)
        else:
            left = ", ".join(f"{len(ids)} of {name}" for name, ids in seen.stayed.items())
            figure = f"{replaced(seen)} old replicas gone, {took}" + (f"; still there: {left}" if left else "")
            complete = seen.done_s is not None and all(seen.before.get(name) for name in MINIMUM)
            yield Verdict("every replica of every deployment is replaced", figure, complete)
        if not scenario.must_cut:
            figure = f"at least {seen.fewest_talking}"
            yield Verdict(
                f"{UNDER_CHANGE} calls are up during {change.name}", figure, seen.fewest_talking >= UNDER_CHANGE
            )


def _growth(scenario: Scenario, calls: Sequence[Placed], samples: Sequence[Sample]) -> list[Verdict]:
    sessions, codecs, ingress = (max((s.running(name) for s in samples), default=0) for name in GROWING)
    inbound = [call for call in calls if call.direction == "inbound" and call.fate == "refused"]
    clean = all(call.detail == "spoken apology" for call in inbound)
    late = [call for call in calls if call.direction == "outbound" and call.setup_s and call.setup_s > SETUP_LIMIT_S]
    early = [call for call in calls if call.fate == "refused" and call.asked_s < scenario.peak_at_s]
    return [
        Verdict("no call refused below capacity", f"{len(early)} refused", not early),
        Verdict("session replicas grow to hold the calls", f"1 -> {sessions} -> 1", sessions > 2),
        Verdict("codec replicas grow with their queue", f"1 -> {codecs} -> 1", codecs > 1),
        Verdict("ingress replicas grow with their sockets", f"1 -> {ingress} -> 1", ingress > 1),
        Verdict("beyond capacity inbound calls hear an apology", f"{len(inbound)} refused", bool(inbound) and clean),
        Verdict("beyond capacity outbound calls wait for slots", f"{len(late)} placed after waiting", bool(late)),
    ]


def _details(calls: Sequence[Placed]) -> str:
    return "".join(f"; {call.direction} at {call.asked_s:.0f} s: {call.detail}" for call in calls[:DETAILS])


def _where(samples: Sequence[Sample]) -> str:
    if not samples:
        return "nothing was sampled"
    return ", ".join(f"{name} {states}" for name, states in sorted(samples[-1].replicas.items()))
