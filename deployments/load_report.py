"""The load of a replica, said once a second in Redis: for scaling decisions, `/metrics` and benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from ray import serve

from serve_app.errors import UnavailableError
from serve_app.loop_lag import LoopLag
from serve_app.store.live import LiveState
from serve_app.store.reports import LOAD, Reports

REPORT_S = 1.0

log = structlog.get_logger()


def measured(lag: LoopLag) -> dict[str, Any]:
    """The lag of this process's event loop over the last seconds, in milliseconds."""
    return {"lag_p95_ms": round(lag.percentile_ms(0.95), 2), "lag_max_ms": round(lag.max_ms, 2)}


async def report_load(live: LiveState, role: str, more: Callable[[], dict[str, Any]] = dict) -> None:
    """Sample and report until cancelled. Redis' outages are waited out: a missing report is no reason to end."""
    lag = LoopLag()
    lag.start()
    reports = Reports(live, LOAD)
    replica = f"{role}:{serve.get_replica_context().replica_id.unique_id}"
    try:
        while True:
            try:
                await reports.put(replica, {"role": role, **measured(lag), **more()})
            except UnavailableError as error:
                log.warning("the load was not reported", error=str(error))
            await asyncio.sleep(REPORT_S)
    finally:
        lag.stop()
