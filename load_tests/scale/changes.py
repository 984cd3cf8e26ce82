"""What is changed under live calls, and the proof, by replica ids, that it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from load_tests.scale.watch import MINIMUM, Sample


@dataclass(frozen=True)
class Change:
    """One deploy. `ingress`: so many ingress replicas; `update`: every replica of every deployment anew."""

    kind: Literal["ingress", "update"]
    replicas: int = 0

    @property
    def name(self) -> str:
        return f"ingress -> {self.replicas}" if self.kind == "ingress" else "update"


@dataclass(slots=True)
class Seen:
    """A change as it went. Times in seconds since the start of the run."""

    change: Change
    began_s: float
    before: dict[str, list[str]]
    """deployment -> ids of the replicas that were there."""
    done_s: float | None = None
    fewest_talking: int = 0
    """Calls with media, at the worst second of it."""
    stayed: dict[str, list[str]] = field(default_factory=dict)
    """deployment -> ids that should have gone and have not."""

    @classmethod
    def begin(cls, change: Change, sample: Sample, now_s: float) -> Seen:
        before = {name: sorted(states) for name, states in sample.ids.items()}
        stayed = before if change.kind == "update" else {}
        return cls(change, now_s, before, fewest_talking=sample.talking, stayed=stayed)

    def watch(self, sample: Sample) -> None:
        """One more second of it."""
        if self.done_s is not None:
            return
        self.fewest_talking = min(self.fewest_talking, sample.talking)
        if self.change.kind == "ingress":
            done = sample.running("MediaIngress") == self.change.replicas
        else:
            self.stayed = {
                name: left
                for name, ids in self.before.items()
                if (left := [i for i in ids if i in sample.ids.get(name, {})])
            }
            done = not self.stayed and all(sample.running(name) for name in MINIMUM)
        if done:
            self.done_s = sample.at_s


def replaced(seen: Seen) -> int:
    """Replicas that were there before an update, and went."""
    return sum(len(ids) for ids in seen.before.values()) - sum(len(ids) for ids in seen.stayed.values())


class Changes:
    """The changes of a run one after the other, each begun `PAUSE_S` after the one before it was through."""

    PAUSE_S = 5.0

    def __init__(self, wanted: Sequence[Change], from_s: float) -> None:
        self._waiting = list(wanted)
        self._next_s = from_s
        self.seen: list[Seen] = []

    def _running(self) -> bool:
        return bool(self.seen) and self.seen[-1].done_s is None

    @property
    def through(self) -> bool:
        return not self._waiting and not self._running()

    def watch(self, sample: Sample) -> None:
        if self._running():
            self.seen[-1].watch(sample)
            if not self._running():
                self._next_s = sample.at_s + self.PAUSE_S

    def due(self, sample: Sample) -> Change | None:
        """What is to be deployed now, if anything; it counts as begun."""
        if self._running() or not self._waiting or sample.at_s < self._next_s:
            return None
        change = self._waiting.pop(0)
        self.seen.append(Seen.begin(change, sample, sample.at_s))
        return change
