"""Workers: background jobs leased from SQL (mix-down, lines, imports, reconcile), never in ControlApi or Dialer."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from deployments.config import AppArgs
from deployments.handles import ready_handle
from deployments.names import CODEC_POOL, VOICE_APP
from deployments.runtime import open_runtime
from serve_app.conversation.lease import CallLease, Outcome
from serve_app.errors import ParleyError, UnavailableError
from serve_app.jobs.finalize import close_lost_call, run_reconciler
from serve_app.jobs.import_file import ImportFile
from serve_app.jobs.mix_recording import MixRecording
from serve_app.jobs.prepare_lines import PrepareLines
from serve_app.jobs.runner import JobHandler, JobRunner
from serve_app.providers.registry import make_synthesizer
from serve_app.store.imports import IMPORT_FILE
from serve_app.store.repositories import MIX_RECORDING, PREPARE_LINES
from serve_app.telephony.vonage.wire import VonageLeg

# A call of two hours is mixed in seconds; beyond this the pool is away or overloaded.
MIX_TIMEOUT_S = 120

log = structlog.get_logger()


@serve.deployment(name="Workers")
class Workers:
    """Runs the job loop and the reconciler for as long as the replica lives."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        self._runtime = await open_runtime(args, "workers")
        self._pool = ready_handle(CODEC_POOL, VOICE_APP)
        runtime = self._runtime
        network = runtime.settings.telephony.vonage
        mix = MixRecording(runtime.db, runtime.objects, self._mix, file_format=runtime.settings.call.recording_format)
        self._lines = PrepareLines(
            runtime.db,
            runtime.objects,
            lambda: make_synthesizer(runtime.settings),
            VonageLeg(network.sample_rate_hz).audio,
        )
        handlers: dict[str, JobHandler] = {
            MIX_RECORDING: mix,
            PREPARE_LINES: self._lines,
            IMPORT_FILE: ImportFile(runtime.db, runtime.objects),
        }
        self._runner = JobRunner(runtime.db, handlers, owner=runtime.owner)
        reconciler = run_reconciler(
            runtime.db,
            runtime.live,
            runtime.vonage,
            token_life_s=network.ringing_timer_s + 30,
            objects=runtime.objects,
        )
        self._background = [asyncio.create_task(self._runner.run()), asyncio.create_task(reconciler)]

    async def wake(self) -> None:
        """A call has ended, or an agent was applied."""
        self._runner.wake()

    async def prepare_opening(self, tenant_id: str, agent: str, version: int) -> bool:
        """A call of this agent is about to be placed. True: its opening is ready."""
        try:
            ready = await self._lines.opening(tenant_id, agent, version)
        except UnavailableError as error:
            log.warning("an opening was not prepared", agent=agent, version=version, error=str(error))
            return False
        self._runner.wake()
        return ready

    async def call_lost(self, lease: dict[str, Any], outcome: Outcome, detail: str) -> None:
        """End the record, and the leg, of a call whose session is gone or never came."""
        call = CallLease.model_validate(lease)
        runtime = self._runtime
        try:
            await runtime.vonage.hang_up(call.carrier_call_id, region_url=call.region_url)
        except ParleyError as error:
            log.warning("the leg of a lost call may still be up", call_id=call.call_id, error=str(error))
        await close_lost_call(
            runtime.db,
            runtime.live,
            call.call_id,
            outcome=outcome,
            detail=detail,
            tenant_id=call.tenant_id,
            objects=runtime.objects,
        )
        self._runner.wake()

    async def check_health(self) -> None:
        for task in self._background:
            if task.done():
                raise RuntimeError(f"a background loop of the workers ended: {task}")

    async def __del__(self) -> None:
        """Serve calls this once when it stops the replica: jobs in hand go back, instead of waiting out their lease."""
        background = getattr(self, "_background", [])  # missing where __init__ failed
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)

    async def _mix(
        self, parts_prefix: str, out_key: str, sample_rate_hz: int, duration_s: float | None, file_format: str
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(MIX_TIMEOUT_S):
                return await self._pool.mix.remote(parts_prefix, out_key, sample_rate_hz, duration_s, file_format)
        except (RayError, RayServeException, TimeoutError) as error:
            raise UnavailableError(f"the codec pool did not mix {parts_prefix}: {error}") from error
