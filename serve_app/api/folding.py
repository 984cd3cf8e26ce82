"""Call events of the network, folded into the record of the call: repeated, late and out of order as they come.

Each is kept as it came, in the transaction that changes what it changes. What becomes of the call is judged by all its
events together (`dialing.carrier_events.judge`), so the order of arrival does not matter.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from functools import partial
from typing import Literal

import structlog

from serve_app.api.deps import ApiDeps
from serve_app.dialing.call_facts import CallFacts, Reached
from serve_app.dialing.carrier_events import facts_in, is_news, judge
from serve_app.dialing.carrier_status import TERMINAL
from serve_app.dialing.dispositions import Disposition
from serve_app.dialing.endings import announce_end
from serve_app.dialing.links import AttemptRef
from serve_app.dialing.settling import settle_lead
from serve_app.errors import ProviderError
from serve_app.store.callers import owner_of
from serve_app.store.repositories import AttemptRow, Attempts, CallFolding, CallRow, Calls, Events, RawEvent
from serve_app.telephony.vonage.webhooks import VonageEvent

HANG_UP_TIMEOUT_S = 5.0
_MEDIA_PATH = re.compile(r"/media/([0-9a-f-]{36})(?:/|$)")
log = structlog.get_logger(__name__)


async def fold(deps: ApiDeps, event: VonageEvent, ref: AttemptRef | None, raw: RawEvent) -> str:
    """Apply one event once. Returns a word for the metrics: what came of it.

    It is kept together with what it changes: if that fails, the network's retry is not taken for a repetition.
    """
    tenant_id = await tenant_of(deps, event, ref)
    events = Events(deps.db, tenant_id)
    if event.uuid is None or event.status is None:
        return await _keep(events, raw)
    if event.of_media_leg:
        return await _media_leg(deps, events, event, raw)
    known = await events.of_attempt(raw.dedupe_key, ref.attempt_id) if ref is not None else None
    if known is None:
        known = await events.of_carrier_call(raw.dedupe_key, event.uuid)
    if known is None:
        return await _keep(events, raw)
    if known.seen:
        return "repeated"
    if known.attempt is not None and not await _bound(deps, known.attempt, event.uuid, event.region_url):
        now = await Attempts(deps.db, tenant_id).get(known.attempt.id)
        if now is not None and now.carrier_call_id is None:
            await events.record(raw)
            await _hang_up_orphan(deps, known.attempt, event)
            return "orphan"
        if now is None or now.carrier_call_id != event.uuid:
            return await _keep(events, raw)
        # Another event of the same call was faster, and ended it.
    return await _fold_into(deps, events, known.call, raw)


async def tenant_of(deps: ApiDeps, event: VonageEvent, ref: AttemptRef | None) -> str:
    """Whose call it is: our link says so; without one, the owner of the number of ours that it names."""
    if ref is not None:
        return ref.tenant_id
    return await owner_of(deps.db, event.to, event.from_) or deps.settings.tenant


async def fold_again(deps: ApiDeps, call: CallRow, raw: RawEvent) -> str:
    """Judge a call anew by what is kept already: `raw`, and events that came before the call was known."""
    return await _judged(deps, call, None, raw)


async def _fold_into(deps: ApiDeps, events: Events, call: CallRow, raw: RawEvent) -> str:
    facts = facts_in(raw, call.direction)
    if facts.machine:
        # Before the event is kept: if this fails, the network's retry is not taken for a repetition. What the
        # conversation reports says more, and stays.
        attempts = Attempts(deps.db, call.tenant_id, clock=deps.clock)
        await attempts.report(call.id, Disposition.MACHINE, unless_told=True, verdict=settle_lead)
    if call.started_at is not None or facts == CallFacts():
        return await _keep(events, raw)
    if not call.over and facts.over_at is None and facts.media_failed_at is None:
        return await _advance(deps, events, call, facts, raw)
    if not call.over and await deps.live.last_beat(call.id) is not None:
        # A session has, or had, this call and writes its end, with what was said; if it died, the reconciler does.
        return await _keep(events, raw)
    return await _judged(deps, call, raw, raw)


async def _advance(deps: ApiDeps, events: Events, call: CallRow, facts: CallFacts, raw: RawEvent) -> str:
    if not is_news(call, facts):
        # The call is further already.
        return await _keep(events, raw)
    reached: Literal["answered", "ringing"] = "answered" if facts.reached is Reached.ANSWERED else "ringing"
    at = facts.answered_at or raw.received_at
    result = await CallFolding(deps.db, call.tenant_id, clock=deps.clock).reach(call.id, reached, at, raw)
    if result == "stored":
        # It ended, or moved on, since the row was read.
        return await _judged(deps, call, raw, raw)
    if result == "moved" and call.status in ("queued", "dialing", "ringing"):
        await deps.live.publish(call.id, {"type": "status", "status": reached})
    return "folded" if result == "moved" else result


async def _judged(deps: ApiDeps, call: CallRow, event: RawEvent | None, newest: RawEvent) -> str:
    folding = CallFolding(deps.db, call.tenant_id, clock=deps.clock)
    result = await folding.fold(call.id, event, partial(judge, newest=newest.dedupe_key), settle_lead)
    if result == "ended":
        now = await Calls(deps.db, call.tenant_id).get(call.id)
        assert now is not None and now.outcome is not None
        await announce_end(
            deps.live, call.id, outcome=now.outcome, detail=now.detail or "", slot_id=await _slot_id(deps, call)
        )
        await deps.call_ended()
    return "folded" if result in ("ended", "corrected") else result


async def _keep(events: Events, raw: RawEvent) -> str:
    return "stored" if await events.record(raw) else "repeated"


async def _media_leg(deps: ApiDeps, events: Events, event: VonageEvent, raw: RawEvent) -> str:
    """The socket is a leg of its own: its end is not the call's end, but without it there will be no conversation."""
    named = _MEDIA_PATH.search(event.to or "")
    if named is None or facts_in(raw, "outbound") == CallFacts():
        return await _keep(events, raw)
    call = await Calls(deps.db, events.tenant_id).get(named.group(1))
    if call is None:
        return await _keep(events, raw)
    # Kept with the call that it is about, which may not know its own leg yet; the body names the socket's.
    return await _fold_into(deps, events, call, replace(raw, carrier_call_id=call.id))


async def _slot_id(deps: ApiDeps, call: CallRow) -> str:
    """Outbound slots have the attempt's id, inbound ones the call's."""
    attempts = await Attempts(deps.db, call.tenant_id).for_call(call.id)
    return attempts[-1].id if attempts else call.id


async def _bound(deps: ApiDeps, attempt: AttemptRow, carrier_call_id: str, region_url: str | None) -> bool:
    """Whether the attempt is this call of the carrier's; the first webhook of a call tells which one it became."""
    if attempt.carrier_call_id is not None:
        return attempt.carrier_call_id == carrier_call_id
    return await Attempts(deps.db, attempt.tenant_id).bind(attempt.id, carrier_call_id, region_url)


async def _hang_up_orphan(deps: ApiDeps, attempt: AttemptRow, event: VonageEvent) -> None:
    """Nobody waits for this call any more, for its attempt had been given up: nobody must pick up to silence."""
    log.warning("orphan_call", call_id=attempt.call_id, attempt_id=attempt.id, status=event.status)
    if event.uuid is None or event.status in TERMINAL:
        return
    try:
        async with asyncio.timeout(HANG_UP_TIMEOUT_S):
            await deps.control.hang_up(event.uuid, region_url=event.region_url)
    except (ProviderError, TimeoutError) as error:
        log.error("orphan_not_hung_up", call_id=attempt.call_id, error=str(error) or "timeout")
