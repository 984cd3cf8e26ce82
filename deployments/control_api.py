"""ControlApi: REST, provider webhooks and the console's data, apart from the media path."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.config import AppArgs
from deployments.environment import describe_serving
from deployments.handles import warm
from deployments.priority import WEBHOOK_NICENESS, prefer_calls
from deployments.runtime import open_runtime
from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.api.first_start import first_start

WAKE_TIMEOUT_S = 0.5


@serve.deployment(name="ControlApi")
@serve.ingress(None)
class ControlApi:
    """The FastAPI application, with handles where it needs the dialer and the workers."""

    async def __init__(self, args: AppArgs, dialer: DeploymentHandle[Any], workers: DeploymentHandle[Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        self._runtime = await open_runtime(args, "control-api")
        self._started = datetime.now(UTC)
        warm(dialer, workers)
        self._app = create_app(
            ApiDeps(
                settings=self._runtime.settings,
                db=self._runtime.db,
                live=self._runtime.live,
                objects=self._runtime.objects,
                control=self._runtime.vonage,
                call_placed=lambda: _tell(dialer.wake),
                call_ended=lambda: _call_ended(dialer, workers),
                changed=lambda tenant_id: _tell(dialer.changed, tenant_id),
                describe_runtime=self._describe,
            )
        )
        self._sweeping = asyncio.create_task(self._app.state.inbox.run())
        await first_start(self._runtime.settings, self._runtime.db)
        prefer_calls(WEBHOOK_NICENESS)

    async def check_health(self) -> None:
        if self._sweeping.done():
            raise RuntimeError(f"the loop that folds what was left behind ended: {self._sweeping}")

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def _describe(self) -> dict[str, Any]:
        settings = self._runtime.settings
        return {
            **describe_serving(),
            "pid": os.getpid(),
            "started_at": self._started.isoformat(),
            # Addresses of this machine are nobody's business beyond it.
            **({"simulators_url": self._runtime.simulators_url} if settings.mode == "local" else {}),
        }


async def _call_ended(dialer: DeploymentHandle[Any], workers: DeploymentHandle[Any]) -> None:
    """There may be room for the next call, and something to do about this one."""
    await asyncio.gather(_tell(dialer.wake), _tell(workers.wake))


async def _tell(method: DeploymentHandle[Any], *arguments: str) -> None:
    """Make it sooner. What is to be done stands in SQL: a lost wake-up costs seconds, not a call.

    A handle waits for a replica however long that takes; a request or a webhook does not.
    """
    try:
        async with asyncio.timeout(WAKE_TIMEOUT_S):
            await method.remote(*arguments)
    except (RayError, RayServeException, TimeoutError):
        return
