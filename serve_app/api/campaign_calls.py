"""Ending the live calls of a campaign that was stopped."""

from __future__ import annotations

import asyncio

import structlog

from serve_app.api.deps import ApiDeps
from serve_app.api.hangup import hang_up_call
from serve_app.api.problems import ProblemError
from serve_app.errors import ProviderError
from serve_app.store.campaigns import Campaigns
from serve_app.store.repositories import Calls

AT_A_TIME = 8
MOST_AT_ONCE = 500
"""Per request. Who asks again ends the next ones."""
DEADLINE_S = 20.0

log = structlog.get_logger(__name__)


async def end_live_calls(deps: ApiDeps, tenant_id: str, campaign_id: str) -> tuple[int, int]:
    """Hang up what waits, rings or talks. How many calls were told to end, and how many could not be reached yet."""
    live, more = await Campaigns(deps.db, tenant_id).attempts(campaign_id, limit=MOST_AT_ONCE, live=True)
    room = asyncio.Semaphore(AT_A_TIME)
    ended = 0

    async def end(call_id: str) -> None:
        nonlocal ended
        async with room:
            if await _end(deps, tenant_id, call_id):
                ended += 1

    try:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            for attempt in live:
                group.create_task(end(attempt.call_id))
    except TimeoutError:
        log.warning("live_calls_not_ended_in_time", campaign_id=campaign_id, ended=ended, live=len(live))
    return ended, len(live) - ended + (more is not None)


async def _end(deps: ApiDeps, tenant_id: str, call_id: str) -> bool:
    """False: it could not be reached at this moment."""
    call = await Calls(deps.db, tenant_id).get(call_id)
    if call is None:
        return True
    try:
        await hang_up_call(deps, tenant_id, call)
    except ProblemError as problem:
        return problem.code == "call_ended"
    except (ProviderError, TimeoutError) as error:
        log.warning("live_call_not_ended", call_id=call_id, error=str(error) or "timeout")
        return False
    return True
