"""Is it alive, is it ready, what did it do: for people, for the load balancer, for Prometheus. No key needed."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serve_app import metrics
from serve_app.api.deps import ApiDeps, Deps
from serve_app.api.problems import ProblemError
from serve_app.api.report import Activity, read_activity
from serve_app.errors import UnavailableError
from serve_app.media_address import describe_media
from serve_app.store.reports import DEMAND, LOAD, TURNS, VITALS, Reports

router = APIRouter(tags=["platform"])
CHECK_TIMEOUT_S = 2.0


@router.get("/health")
async def health(request: Request, deps: Deps) -> dict[str, Any]:
    """What runs here and how. Always 200 while the process answers; `status` is `degraded` if something is away."""
    checks = await _checks(deps)
    total, used = await _capacity(deps) or (None, None)
    settings = deps.settings
    return {
        "status": "ok" if all(value == "ok" for value in checks.values()) else "degraded",
        "version": request.app.version,
        "mode": settings.mode,
        "public_url": settings.public_url,
        "media": describe_media(settings),
        "simulated": sorted(settings.simulated),
        "simulated_network": deps.single_calls.simulated_network,
        "checks": checks,
        "capacity": {"slots": total, "used": used},
        "runtime": deps.describe_runtime(),
    }


@router.get("/ready")
async def ready(deps: Deps) -> dict[str, Any]:
    """200 once SQL and Redis answer, else 503 that names what does not."""
    checks = await _checks(deps)
    away = sorted(name for name, state in checks.items() if state != "ok")
    if away:
        raise ProblemError(
            503,
            "not_ready",
            f"not ready: {', '.join(away)} does not answer",
            remedy="parley doctor says what to do",
            checks=checks,
            headers={"Retry-After": "2"},
        )
    return {"status": "ready", "checks": checks}


@router.get("/metrics")
async def scrape(deps: Deps) -> Response:
    """Prometheus text: this process's counters, and the platform's activity as SQL and Redis know it."""
    capacity = await _capacity(deps)
    if capacity is not None:
        metrics.SLOTS_TOTAL.set(capacity[0])
        metrics.SLOTS_USED.set(capacity[1])
    _export_replicas(await _reports(deps, VITALS))
    _export_load(await _reports(deps, LOAD), await _reports(deps, DEMAND))
    metrics.SESSION_REPORTS.reports = await _reports(deps, TURNS)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            _export(await read_activity(deps.db, deps.clock.now()))
    except (UnavailableError, TimeoutError):
        # A scrape must not fail because SQL is away: the process's own counters are what then matters.
        metrics.CALLS_LIVE.clear()
        metrics.CALLS_RECENT.clear()
        metrics.TURN_RECENT_MS.clear()
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _export(activity: Activity) -> None:
    metrics.CALLS_LIVE.clear()
    for status, count in activity.live_by_status.items():
        metrics.CALLS_LIVE.labels(status).set(count)
    metrics.CALLS_RECENT.clear()
    for outcome, count in activity.recent_by_outcome.items():
        metrics.CALLS_RECENT.labels(outcome).set(count)
    metrics.TURN_RECENT_MS.clear()
    for quantile, value in activity.turn_ms.items():
        metrics.TURN_RECENT_MS.labels(quantile).set(value)


def _export_replicas(vitals: dict[str, dict[str, Any]]) -> None:
    for name, gauge in metrics.REPLICA.items():
        gauge.clear()
        for replica, report in vitals.items():
            gauge.labels(report["deployment"], replica).set(report[name])


def _export_load(load: dict[str, dict[str, Any]], demand: dict[str, dict[str, Any]]) -> None:
    metrics.LOOP_LAG_MS.clear()
    for role in {report["role"] for report in load.values()}:
        for quantile, name in (("0.95", "lag_p95_ms"), ("1", "lag_max_ms")):
            worst = max(report[name] for report in load.values() if report["role"] == role)
            metrics.LOOP_LAG_MS.labels(role, quantile).set(worst)
    metrics.CALLS_WAITING.set(sum(report["waiting"] for report in demand.values()))


async def _reports(deps: ApiDeps, kind: str) -> dict[str, dict[str, Any]]:
    """Who reports -> its last report; empty while Redis is away."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await Reports(deps.live, kind).all()
    except (UnavailableError, TimeoutError):
        return {}


async def _checks(deps: ApiDeps) -> dict[str, str]:
    async def sql() -> None:
        await deps.db.ping()

    async def redis() -> None:
        await deps.live.capacity()

    states: dict[str, str] = {}
    for name, probe in (("sql", sql), ("redis", redis)):
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                await probe()
            states[name] = "ok"
        except UnavailableError as error:
            states[name] = str(error)
        except TimeoutError:
            states[name] = f"no answer within {CHECK_TIMEOUT_S:g} s"
    return states


async def _capacity(deps: ApiDeps) -> tuple[int, int] | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await deps.live.capacity()
    except (UnavailableError, TimeoutError):
        return None
