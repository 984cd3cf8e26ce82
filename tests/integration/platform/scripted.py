"""Calls that only follow a script. They are placed together: their tests wait for the longest, not for the sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.integration.harness import Running

Steps = list[dict[str, Any]]

AT_ONCE = 8
"""With the spare slots within one session replica: no other one is started, which would cost more than it saves."""


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """One call. `fault`: a provider's, for the request of this call that contains `containing` (deepgram: its stream).

    `number`: the other side's, E.164, and no other script's. `steps` is called when the call is placed.
    """

    name: str
    number: str
    steps: Callable[[], Steps]
    behaviour: Mapping[str, Any] = field(default_factory=dict)
    inbound: bool = False
    fault: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A call after its end, as the API shows it."""

    script: Script
    id: str
    call: dict[str, Any]


class ScriptedCalls:
    """The calls of some scripts."""

    def __init__(self, platform: Running, pool: ThreadPoolExecutor, scripts: Iterable[Script]) -> None:
        self._platform = platform
        self._calls: dict[Script, Future[Ended]] = {script: pool.submit(self._play, script) for script in scripts}

    def ended(self, script: Script) -> Ended:
        """Wait for the end of this script's call. Raises what went wrong with it."""
        return self._calls[script].result()

    def _play(self, script: Script) -> Ended:
        platform, behaviour = self._platform, dict(script.behaviour)
        if script.inbound:
            call_id = platform.call_in(script.steps(), sender=script.number, **behaviour)
        else:
            call_id = platform.place(script.steps(), to=script.number, **behaviour)
        if script.fault is not None:
            # Before the network has called anybody: faults hit streams that begin after them.
            own = {"call_id": call_id} if script.fault["provider"] == "deepgram" else {}
            platform.fault(**script.fault, **own)
        return Ended(script, call_id, platform.ended(call_id))


@contextmanager
def scripted_calls(platform: Running, scripts: Iterable[Script]) -> Iterator[ScriptedCalls]:
    """Play all, `AT_ONCE` at a time and in their order; at the end none is left."""
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="script") as pool:
        yield ScriptedCalls(platform, pool, scripts)
