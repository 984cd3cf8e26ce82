"""Resting our own numbers that people have stopped answering, and bringing back those that have rested."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

import structlog
from sqlalchemy import select

from serve_app.clock import Clock
from serve_app.dialing.caller_ids import NEWEST_CALLS, tired
from serve_app.dialing.dispositions import HUMAN, Disposition
from serve_app.store.campaign_models import OwnNumber
from serve_app.store.campaign_rows import NumberRow
from serve_app.store.db import Database
from serve_app.store.numbers import NumberHealth, Numbers

RESTED = "rested"

log = structlog.get_logger(__name__)


async def rest_tired_numbers(db: Database, clock: Clock) -> int:
    """Look at every number in use, of all tenants; how many were sent to rest. Raises UnavailableError.

    Any number of processes may do it at once: they come to the same.
    """
    async with db.session() as session:
        tenants = list(await session.scalars(select(OwnNumber.tenant_id).distinct().order_by(OwnNumber.tenant_id)))
    return sum([await _look_after(Numbers(db, tenant, clock=clock), clock.now()) for tenant in tenants])


async def _look_after(numbers: Numbers, now: datetime) -> int:
    pools: dict[str, list[NumberHealth]] = defaultdict(list)
    for row in await numbers.list():
        if row.state == "cooling" and row.cool_until is not None and row.cool_until <= now:
            await numbers.set_state(row.e164, "active", reason=RESTED)
        elif row.state == "active":
            pools[row.pool].append(await _health(numbers, row))
    rested = [rest for pool in pools.values() for rest in tired(pool, now)]
    for rest in rested:
        await numbers.set_state(rest.e164, "cooling", reason=rest.reason, cool_until=rest.until)
        log.warning("own_number_rests", until=rest.until.isoformat(), reason=rest.reason)
    return len(rested)


async def _health(numbers: Numbers, row: NumberRow) -> NumberHealth:
    return await numbers.health(
        row.e164,
        newest=NEWEST_CALLS,
        short=(str(Disposition.HUMAN_SHORT),),
        human=tuple(map(str, HUMAN)),
        # One that has rested begins anew: what made it rest is still among its newest calls.
        since=row.updated_at if row.state_reason == RESTED else None,
    )
