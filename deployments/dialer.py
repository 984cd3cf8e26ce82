"""Dialer: one replica that paces and places calls. It holds no truth; two at once are harmless."""

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
from serve_app.dialing.openings import AgentVersion

# An opening of half a minute is synthesized in a few seconds; calls wait a second of it at most.
PREPARE_TIMEOUT_S = 30

log = structlog.get_logger()


@serve.deployment(name="Dialer")
class Dialer:
    """Runs the dialing core for as long as the replica lives."""

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
        )
        self._run = asyncio.create_task(self._core.run())

    async def wake(self) -> None:
        """A call was requested."""
        self._core.wake()

    async def _prepare(self, agent: AgentVersion) -> bool:
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                return bool(await self._workers.prepare_opening.remote(*agent))
        except (RayError, RayServeException, TimeoutError) as error:
            log.warning("an opening was not prepared", agent=agent.name, version=agent.version, error=str(error))
            return False

    async def check_health(self) -> None:
        if self._run.done():
            raise RuntimeError(f"the dialer ended: {self._run}")

    async def __del__(self) -> None:
        """Serve calls this once when it stops the replica: no request is cancelled before its answer."""
        core = getattr(self, "_core", None)  # missing where __init__ failed
        if core is not None:
            await core.stop()
            self._run.cancel()
