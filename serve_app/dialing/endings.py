"""Ending a call that has no session: its record, its slot, and those who watch it."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import structlog

from serve_app.conversation.lease import Outcome
from serve_app.dialing.settling import settle_lead
from serve_app.errors import UnavailableError
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.repositories import Calls

log = structlog.get_logger(__name__)


async def end_without_media(
    db: Database,
    live: LiveState,
    tenant_id: str,
    call_id: str,
    *,
    outcome: Outcome,
    detail: str,
    slot_id: str,
    at: datetime | None = None,
    unsent_only: bool = False,
) -> bool:
    """Close the call as failed with `outcome`; its attempt ends with it. False if somebody closed it before.

    `unsent_only`: False, and nothing changes, once the dialer has begun to place it.

    SQL first: it is the truth. A slot that Redis could not be told about runs out by itself.
    """
    first = await Calls(db, tenant_id).finish(
        call_id,
        status="failed",
        outcome=outcome,
        detail=detail,
        started_at=None,
        ended_at=at or datetime.now(UTC),
        duration_s=None,
        sample_rate_hz=None,
        unsent_only=unsent_only,
        verdict=settle_lead,
    )
    if unsent_only and not first:
        return False
    if first:
        await announce_end(live, call_id, outcome=outcome, detail=detail, slot_id=slot_id)
    else:
        await _release(live, call_id, slot_id)
    return first


async def announce_end(live: LiveState, call_id: str, *, outcome: str, detail: str, slot_id: str) -> None:
    """What follows the record of an end: the slot is free, and those who watch the call are told."""
    await _release(live, call_id, slot_id)
    with suppress(UnavailableError):
        await live.publish(call_id, {"type": "finished", "outcome": outcome, "detail": detail})
    log.info("call_ended", call_id=call_id, outcome=outcome, detail=detail)


async def _release(live: LiveState, call_id: str, slot_id: str) -> None:
    try:
        await live.release(slot_id)
    except UnavailableError as error:
        log.warning("slot_not_released", call_id=call_id, error=str(error))
