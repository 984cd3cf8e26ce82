"""Workers: background jobs leased from SQL (mix-down, reconcile), never in ControlApi or Dialer."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from serve_app.jobs.mix import mix_handler

from deployments.names import CODEC_POOL, VOICE_APP
from deployments.runtime import AppArgs, open_runtime
from serve_app.clock import SystemClock
from serve_app.conversation.lease import CallLease, Outcome
from serve_app.errors import ParleyError, UnavailableError
from serve_app.jobs.finalize import close_lost_call, reconcile
from serve_app.jobs.runner import JobRunner

RECONCILE_EVERY_S = 5.0

log = structlog.get_logger()


@serve.deployment(name="Workers")
class Workers:
    """Runs the job loop and the reconciler for as long as the replica lives."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        self._runtime = await open_runtime(args, "workers")
        handlers = {"mix_recording": mix_handler(self._runtime.db, self._mix, self._runtime.settings.call)}
        self._runner = JobRunner(self._runtime.db, handlers, owner=self._runtime.owner)
        self._background = [asyncio.create_task(self._runner.run()), asyncio.create_task(self._reconcile())]

    async def wake(self) -> None:
        """A call has ended."""
        self._runner.wake()

    async def call_lost(self, lease: dict[str, Any], outcome: Outcome, detail: str) -> None:
        """End the record, and the leg, of a call whose session is gone or never came."""
        call = CallLease.model_validate(lease)
        runtime = self._runtime
        try:
            await runtime.vonage.hang_up(call.carrier_call_id, region_url=call.region_url)
        except ParleyError as error:
            log.warning("the leg of a lost call may still be up", call_id=call.call_id, error=str(error))
        await close_lost_call(runtime.db, runtime.live, call.call_id, outcome=outcome, detail=detail)
        self._runner.wake()

    async def check_health(self) -> None:
        for task in self._background:
            if task.done():
                raise RuntimeError(f"a background loop of the workers ended: {task}")

    async def _reconcile(self) -> None:
        runtime, clock = self._runtime, SystemClock()
        while True:
            try:
                await reconcile(runtime.db, runtime.live, runtime.vonage, clock.now())
                self._runner.wake()
            except UnavailableError as error:
                log.warning("reconcile waits", error=str(error))
            await asyncio.sleep(RECONCILE_EVERY_S)

    async def _mix(
        self, parts_prefix: str, out_key: str, sample_rate_hz: int, duration_s: float | None, file_format: str
    ) -> dict[str, Any]:
        pool = serve.get_deployment_handle(CODEC_POOL, app_name=VOICE_APP)
        try:
            return await pool.mix.remote(parts_prefix, out_key, sample_rate_hz, duration_s, file_format)
        except (RayError, RayServeException) as error:
            raise UnavailableError(f"the codec pool did not mix {parts_prefix}: {error}") from error
