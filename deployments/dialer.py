"""Dialer: one replica that paces and places calls. It holds no truth; two at once are harmless."""

from __future__ import annotations

import asyncio

import structlog
from ray import serve

from deployments.config import AppArgs
from deployments.runtime import open_runtime
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Dialer as DialerCore

log = structlog.get_logger()


@serve.deployment(name="Dialer")
class Dialer:
    """Runs the dialing core for as long as the replica lives."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        runtime = await open_runtime(args, "dialer")
        self._core = DialerCore(
            runtime.db, runtime.live, runtime.vonage, runtime.settings, SystemClock(), runtime.owner
        )
        self._run = asyncio.create_task(self._core.run())

    async def wake(self) -> None:
        """A call was requested."""
        self._core.wake()

    async def check_health(self) -> None:
        if self._run.done():
            raise RuntimeError(f"the dialer ended: {self._run}")

    async def __del__(self) -> None:
        """Serve calls this once when it stops the replica: no request is cancelled before its answer."""
        core = getattr(self, "_core", None)  # missing where __init__ failed
        if core is not None:
            await core.stop()
            self._run.cancel()
