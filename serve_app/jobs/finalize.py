"""Ending calls whose session died or whose media never came, so that every call has an end on record."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select

from serve_app.audio.mix import PartPlace, parts_prefix
from serve_app.clock import Clock, SystemClock
from serve_app.conversation.lease import Outcome
from serve_app.dialing.settling import settle_lead
from serve_app.errors import ProviderError, UnavailableError
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.models import OPEN_CALL, Call
from serve_app.store.objects import ObjectStore
from serve_app.store.parked_opt_outs import write_parked
from serve_app.store.repositories import Attempts, CallRow, Calls, Turns
from serve_app.store.rows import to_row
from serve_app.telephony.base import CallControl

LEASE_GRACE_S = 10.0
TOKEN_LIFE_S = 60.0
"""Default of the media token's life: ring time 30 s + 30 s."""
RECONCILE_EVERY_S = 5.0
HANG_UP_TIMEOUT_S = 15.0
MOST_CALLS = 10_000
"""In one look, over all tenants."""
DIALER_HEAD_START_S = 240.0
CLOSED_EPOCH = 2**53
"""The last epoch: whoever held the call before cannot lease it again."""

log = structlog.get_logger(__name__)


async def close_lost_call(
    db: Database,
    live: LiveState,
    call_id: str,
    *,
    outcome: Outcome,
    detail: str,
    tenant_id: str | None = None,
    objects: ObjectStore | None = None,
    ended_at: datetime | None = None,
) -> bool:
    """End a call in its session's place. True if this did it; False if it had ended, or there is no such call.

    Idempotent. The call lasted from its first media message to the last thing that is known of it: a turn, a beat of
    its lease, or, with `objects`, a part of its recording. Its attempt ends, its slot is free, its session is fenced
    off, and what was recorded is mixed. Raises UnavailableError when SQL is away; Redis being away is only logged,
    since slot and lease run out by themselves.
    """
    tenant_id = tenant_id or await _tenant_of(db, call_id)
    call = await Calls(db, tenant_id).get(call_id) if tenant_id else None
    if call is None:
        return False
    duration_s = await _known_duration_s(db, live, call, objects)
    if call.started_at is not None:
        ended_at = call.started_at + timedelta(seconds=duration_s)
    first = await Calls(db, call.tenant_id).finish(
        call_id,
        status="failed",
        outcome=outcome,
        detail=detail,
        started_at=None,
        ended_at=ended_at or SystemClock().now(),
        duration_s=duration_s,
        sample_rate_hz=await _sample_rate_hz(call, objects),
        verdict=settle_lead,
    )
    try:
        await live.drop_call(call_id, CLOSED_EPOCH)
        await live.release(call_id)
        for attempt in await Attempts(db, call.tenant_id).for_call(call_id):
            await live.release(attempt.id)
        if first:
            event = {"type": "finished", "outcome": outcome, "detail": detail}
            await live.publish(call_id, {**event, "duration_s": duration_s})
    except UnavailableError as error:
        log.warning("slot_not_released", call_id=call_id, error=str(error))
    if first:
        log.info("call_closed", call_id=call_id, outcome=outcome, detail=detail, duration_s=duration_s)
    return first


async def reconcile(
    db: Database,
    live: LiveState,
    control: CallControl,
    now: datetime,
    *,
    token_life_s: float = TOKEN_LIFE_S,
    objects: ObjectStore | None = None,
) -> list[str]:
    """Look once at every call that is not over; hang up and close those that nobody serves. Returns their ids.

    In progress: no live lease, on two looks at least 10 s apart (Redis may have been restarted, and beats come back).
    Answered without media: since longer than the media token lived; placed or ringing: four minutes more, in which the
    dialer asks the network. Queued calls and unproven attempts are the dialer's. Raises UnavailableError.
    """
    closed: list[str] = []
    calls = await _older_calls(db, now - timedelta(seconds=LEASE_GRACE_S))
    # Asked after SQL: a call that began in between has its lease by then.
    leased = await live.leased_calls() if calls else {}
    for call in calls:
        verdict = await _verdict(db, live, call, call.id in leased, now, token_life_s)
        if verdict is None:
            continue
        outcome, detail = verdict
        await _hang_up(control, call)
        if await close_lost_call(
            db, live, call.id, outcome=outcome, detail=detail, tenant_id=call.tenant_id, objects=objects, ended_at=now
        ):
            closed.append(call.id)
    return closed


async def run_reconciler(
    db: Database,
    live: LiveState,
    control: CallControl,
    *,
    clock: Clock | None = None,
    every_s: float = RECONCILE_EVERY_S,
    token_life_s: float = TOKEN_LIFE_S,
    objects: ObjectStore | None = None,
) -> None:
    """`reconcile` for ever, and what sessions left to be written; a service that is away is logged and waited out."""
    clock = clock or SystemClock()
    while True:
        try:
            # First, so that a call which is closed now says that its callee opted out.
            await write_parked(db, live)
            await reconcile(db, live, control, clock.now(), token_life_s=token_life_s, objects=objects)
        except UnavailableError as error:
            log.warning("reconcile_waits", error=str(error))
        except Exception:  # the root of a worker loop: one odd call must not stop the others from being closed
            log.exception("reconcile_failed")
        await clock.sleep(every_s)


async def _verdict(
    db: Database, live: LiveState, call: CallRow, leased: bool, now: datetime, token_life_s: float
) -> tuple[Outcome, str] | None:
    if leased or call.status == "queued":
        return None
    if call.status == "in_progress":
        if await _missing_for_s(live, call, now) > LEASE_GRACE_S:
            return "session_lost", "the process that held the conversation died"
        return None
    if now - call.updated_at <= timedelta(seconds=token_life_s):
        return None
    if call.status == "answered":
        return "media_failure", "the call was answered, but the network never opened its media socket"
    if call.direction == "outbound":
        # The dialer asks the network how such a call ended; this is for when it cannot.
        if now - call.updated_at <= timedelta(seconds=token_life_s + DIALER_HEAD_START_S):
            return None
        attempt = await Attempts(db, call.tenant_id).live_of_call(call.id)
        if attempt is not None and attempt.status != "placed":
            return None
        return "not_answered", "the network did not report how the call ended"
    return "media_failure", "the network never opened its media socket"


async def _missing_for_s(live: LiveState, call: CallRow, now: datetime) -> float:
    """Since when looks have found no lease after the same last beat. 0 on the first look."""
    beat = await live.last_beat(call.id)
    last = "none" if beat is None else str(beat[0].timestamp())
    first_look = await live.remember_answer(f"missing:{call.id}:{last}", str(now.timestamp()), ttl_s=600)
    return now.timestamp() - float(first_look)


async def _hang_up(control: CallControl, call: CallRow) -> None:
    if call.carrier_call_id is None:
        return
    try:
        async with asyncio.timeout(HANG_UP_TIMEOUT_S):
            await control.hang_up(call.carrier_call_id, region_url=call.region_url)
    except (ProviderError, TimeoutError) as error:
        # The network's own length limit ends the call in the worst case; the record must not wait for it.
        log.warning("hang_up_failed", call_id=call.id, error=str(error))


async def _known_duration_s(db: Database, live: LiveState, call: CallRow, objects: ObjectStore | None) -> float:
    if call.started_at is None:
        return 0.0
    known = [0.0]
    known += [turn.ended_ms / 1000 for turn in await Turns(db, call.tenant_id).list(call.id)]
    try:
        beat = await live.last_beat(call.id)
        if beat is not None:
            known.append((beat[0] - call.started_at).total_seconds())
        if objects is not None:
            known.append(await _recorded_s(objects, call))
    except UnavailableError as error:
        log.warning("lost_call_partly_known", call_id=call.id, error=str(error))
    return round(max(known), 3)


async def _recorded_s(objects: ObjectStore, call: CallRow) -> float:
    """Where the last part of either direction ends."""
    last: dict[str, tuple[PartPlace, str]] = {}
    for place, key in await _parts(objects, call):
        last[place.direction] = max(last.get(place.direction, (place, key)), (place, key))
    ends = [(place.offset_samples + len(await objects.get(key)) // 2) / place.rate_hz for place, key in last.values()]
    return max(ends, default=0.0)


async def _sample_rate_hz(call: CallRow, objects: ObjectStore | None) -> int | None:
    if call.sample_rate_hz is not None or call.started_at is None or objects is None:
        return call.sample_rate_hz
    try:
        parts = await _parts(objects, call)
    except UnavailableError:
        return None
    return parts[0][0].rate_hz if parts else None


async def _parts(objects: ObjectStore, call: CallRow) -> list[tuple[PartPlace, str]]:
    found: list[tuple[PartPlace, str]] = []
    for key in await objects.list(parts_prefix(call.tenant_id, call.id)):
        try:
            found.append((PartPlace.parse(key), key))
        except ValueError:
            log.warning("not_a_recording_part", call_id=call.id, key=key)
    return found


async def _tenant_of(db: Database, call_id: str) -> str | None:
    async with db.session() as session:
        return await session.scalar(select(Call.tenant_id).where(Call.id == call_id))


async def _older_calls(db: Database, older_than: datetime) -> list[CallRow]:
    """Calls that are not over and did not change since: with `_tenant_of`, all that crosses tenants here."""
    query = select(Call).where(OPEN_CALL, Call.updated_at < older_than).order_by(Call.updated_at)
    async with db.session() as session:
        return [to_row(CallRow, call) for call in await session.scalars(query.limit(MOST_CALLS))]
