"""Dialer: one replica that decides on calls of campaigns, paces and places them.

It holds no truth; two at once are harmless.
"""

from __future__ import annotations

import asyncio

import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.config import AppArgs
from deployments.handles import ready_handle
from deployments.names import CONTROL_APP, WORKERS
from deployments.runtime import open_runtime
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Dialer as DialerCore
from serve_app.dialing.feeder import Feeder
from serve_app.dialing.openings import AgentVersion

# An opening of half a minute is synthesized in a few seconds; calls wait a second of it at most.
PREPARE_TIMEOUT_S = 30

log = structlog.get_logger()


@serve.deployment(name="Dialer")
class Dialer:
    """Runs the feeder and the dialing core for as long as the replica lives."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        runtime = await open_runtime(args, "dialer")
        self._workers = ready_handle(WORKERS, CONTROL_APP)
        self._core = DialerCore(
            runtime.db,
            runtime.live,
            runtime.vonage,
            runtime.settings,
            SystemClock(),
            runtime.owner,
            prepare=self._prepare,
            moved=self._wake_feeder,
        )
        self._feeder = Feeder(
            runtime.db,
            runtime.live,
            runtime.settings,
            SystemClock(),
            runtime.owner,
            fed=self._core.wake,
            pressure=self._core.pressure,
        )
        self._run = asyncio.create_task(self._core.run())
        self._feed = asyncio.create_task(self._feeder.run())

    async def wake(self) -> None:
        """A call was requested, or one has ended: there may be room for the next."""
        self._core.wake()
        self._feeder.wake()

    async def changed(self, tenant_id: str) -> None:
        """A person of this tenant changed something: a campaign, a lead, a list, a number, a switch."""
        self._core.wake()
        self._feeder.changed(tenant_id)

    def _wake_feeder(self) -> None:
        self._feeder.wake()

    async def _prepare(self, agent: AgentVersion) -> bool:
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                return bool(await self._workers.prepare_opening.remote(*agent))
        except (RayError, RayServeException, TimeoutError) as error:
            log.warning("an opening was not prepared", agent=agent.name, version=agent.version, error=str(error))
            return False

    async def check_health(self) -> None:
        for task in (self._run, self._feed):
            if task.done():
                raise RuntimeError(f"the dialer ended: {task}")

    async def __del__(self) -> None:
        """Serve calls this once when it stops the replica: no request is cancelled before its answer."""
        core = getattr(self, "_core", None)  # missing where __init__ failed
        if core is not None:
            self._feed.cancel()
            await core.stop()
            self._run.cancel()
