"""What the API needs from the outside, in one object, and how a request reaches it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from fastapi import Depends, Request

from serve_app.clock import Clock, SystemClock
from serve_app.dialing.links import AttemptLinks
from serve_app.dialing.single_calls import SingleCalls
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.telephony.base import CallControl


async def _nothing(*_: str) -> None:
    return None


@dataclass(frozen=True)
class ApiDeps:
    """Everything injected. The API owns none of it and closes none of it.

    `call_placed` wakes the dialer, `call_ended` the background workers and the dialer; `changed` tells the dialer that
    a person of this tenant changed what may be called, so that it asks again what it had halted. All only make things
    sooner, nothing is lost without them.

    `describe_runtime` is asked at each `/health` and returns JSON-ready facts about the process around the API.
    `simulated_network` None: derived from the settings (`dialing.network.network_is_simulated`).
    """

    settings: Settings
    db: Database
    live: LiveState
    objects: ObjectStore
    control: CallControl
    call_placed: Callable[[], Awaitable[None]] = _nothing
    call_ended: Callable[[], Awaitable[None]] = _nothing
    changed: Callable[[str], Awaitable[None]] = _nothing
    describe_runtime: Callable[[], dict[str, Any]] = dict
    simulated_network: bool | None = None
    clock: Clock = field(default_factory=SystemClock)

    @cached_property
    def single_calls(self) -> SingleCalls:
        return SingleCalls(self.settings, simulated_network=self.simulated_network)

    def links(self) -> AttemptLinks:
        return AttemptLinks(self.settings)


def get_deps(request: Request) -> ApiDeps:
    deps = request.app.state.deps
    assert isinstance(deps, ApiDeps)
    return deps


Deps = Annotated[ApiDeps, Depends(get_deps)]
