"""The platform's activity over the last minutes, across tenants, for the operator's metrics. Counts only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from serve_app.store.db import Database
from serve_app.store.models import TERMINAL_CALL, Call, LatencyMeasurement

OUTCOME_WINDOW = timedelta(hours=1)
LATENCY_WINDOW = timedelta(minutes=15)
LATENCY_SAMPLES = 5000
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Activity:
    live_by_status: dict[str, int]
    recent_by_outcome: dict[str, int]
    turn_ms: dict[str, float]
    """Quantile (`0.5`) -> milliseconds; empty when nobody spoke."""


async def read_activity(db: Database, now: datetime) -> Activity:
    """Read it. Raises UnavailableError."""
    live = (
        select(Call.status, func.count().label("calls")).where(Call.status.not_in(TERMINAL_CALL)).group_by(Call.status)
    )
    recent = (
        select(Call.outcome, func.count())
        .where(Call.status.in_(TERMINAL_CALL), Call.updated_at >= now - OUTCOME_WINDOW)
        .group_by(Call.outcome)
    )
    latencies = (
        select(LatencyMeasurement.total_ms)
        .where(LatencyMeasurement.created_at >= now - LATENCY_WINDOW, LatencyMeasurement.total_ms.is_not(None))
        .order_by(LatencyMeasurement.created_at.desc())
        .limit(LATENCY_SAMPLES)
    )
    async with db.session() as session:
        by_status = {row.status: row.calls for row in await session.execute(live)}
        by_outcome = {outcome or "unknown": count for outcome, count in await session.execute(recent)}
        totals = sorted(value for value in (await session.scalars(latencies)).all() if value is not None)
    return Activity(by_status, by_outcome, {str(q): _quantile(totals, q) for q in QUANTILES} if totals else {})


def _quantile(ordered: list[float], q: float) -> float:
    """The nearest-rank quantile of a non-empty sorted list."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]
