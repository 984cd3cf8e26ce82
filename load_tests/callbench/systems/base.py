"""A system under test: how it is started, where a call enters it, and which of its processes is what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from load_tests.callbench.processes import ProcessTree


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system runs and what it talks to."""

    core: int
    mark: str
    """The value of `child.MARK` in the environment of everything that the system starts."""
    simulators_url: str
    folder: Path
    """For the system's data and logs; removed after the run."""
    max_calls: int
    """The largest step: capacity limits must lie above it."""

    @property
    def simulators_socket_url(self) -> str:
        return self.simulators_url.replace("http", "ws", 1)


@dataclass(frozen=True, slots=True)
class Lag:
    """Of an event loop, over a few seconds; milliseconds."""

    p95_ms: float
    max_ms: float


class System(Protocol):
    """One system under test. `start` and `stop` block."""

    name: str

    @property
    def groups(self) -> Sequence[str]:
        """The process groups that its CPU is told apart by, largest first in a plot."""
        ...

    def start(self, place: Place) -> None:
        """Start it pinned and wait until it takes calls. Raises ParleyError or OSError, with nothing left running."""
        ...

    def tree(self) -> ProcessTree: ...

    def opening(self) -> dict[str, Any]:
        """How a phone reaches it: the `open` document of a leg."""
        ...

    def loop_lag(self) -> Mapping[str, Lag]:
        """Of its event loops over the last 5 s, by group the worst process; empty where it cannot tell."""
        ...

    def about(self) -> dict[str, Any]:
        """What of its configuration a reader has to know; JSON."""
        ...

    def stop(self) -> None:
        """End every process of it. Idempotent."""
        ...


def provider_environment(place: Place) -> dict[str, str]:
    """What makes Parley's pipeline use the simulators as if they were the real providers."""
    return {
        "DEEPGRAM_API_KEY": "callbench",
        "GROQ_API_KEY": "callbench",
        "CARTESIA_API_KEY": "callbench",
        "PARLEY_PROVIDERS__DEEPGRAM__BASE_URL": place.simulators_url,
        "PARLEY_PROVIDERS__DEEPGRAM__WEBSOCKET_URL": place.simulators_socket_url,
        "PARLEY_PROVIDERS__GROQ__BASE_URL": place.simulators_url,
        "PARLEY_PROVIDERS__CARTESIA__BASE_URL": place.simulators_url,
        "PARLEY_PROVIDERS__CARTESIA__WEBSOCKET_URL": place.simulators_socket_url,
        "OMP_NUM_THREADS": "1",
    }
