"""Call events of the network, folded into the record of the call: repeated, late and out of order as they come.

Every step only moves a call forward, an ended call stays ended, and a late reason replaces a vague one, so the order of
arrival does not matter.
"""

from __future__ import annotations

import asyncio
import re

import structlog

from serve_app.api.deps import ApiDeps
from serve_app.dialing.carrier_status import (
    ANSWERED,
    TERMINAL,
    VAGUE,
    Ending,
    ending_of,
    explanation_of,
    media_failure,
)
from serve_app.dialing.endings import end_without_media
from serve_app.dialing.links import AttemptRef
from serve_app.dialing.settling import settle_lead
from serve_app.errors import ProviderError
from serve_app.store.repositories import AttemptRow, Attempts, CallRow, Calls, Events, RawEvent
from serve_app.telephony.vonage.webhooks import VonageEvent

HANG_UP_TIMEOUT_S = 5.0
_MEDIA_PATH = re.compile(r"/media/([0-9a-f-]{36})(?:/|$)")
_REACHED = {"ringing": "ringing", **dict.fromkeys(ANSWERED, "answered")}
log = structlog.get_logger(__name__)


async def fold(deps: ApiDeps, event: VonageEvent, ref: AttemptRef | None, raw: RawEvent) -> str:
    """Apply one event once, and keep it as it came. Returns a word for the metrics: what came of it.

    It is kept together with what it changes, or after that: if the change fails, the network's retry is not taken for
    a repetition. Where an event is applied twice all the same, it changes nothing.
    """
    tenant_id = ref.tenant_id if ref is not None else deps.settings.tenant
    events = Events(deps.db, tenant_id)
    if event.uuid is None or event.status is None:
        return await _keep(events, raw)
    calls = Calls(deps.db, tenant_id)
    if event.of_media_leg:
        return await _media_leg(deps, events, calls, event, raw)
    if ref is not None:
        known = await events.of_attempt(raw.dedupe_key, ref.attempt_id)
    else:
        known = await events.of_carrier_call(raw.dedupe_key, event.uuid)
    if known is None:
        return await _keep(events, raw)
    if known.seen:
        return "repeated"
    attempt = known.attempt
    if attempt is not None and attempt.carrier_call_id not in (None, event.uuid):
        return await _keep(events, raw)
    if attempt is not None and attempt.carrier_call_id is None and not await _bind(deps, attempt, event):
        await events.record(raw)
        return "orphan"
    return await _fold_into(deps, events, calls, known.call, event, raw)


async def _fold_into(
    deps: ApiDeps, events: Events, calls: Calls, call: CallRow, event: VonageEvent, raw: RawEvent
) -> str:
    """An event of a call's own leg."""
    assert event.status is not None
    if event.status in _REACHED and not call.over:
        return await _advance(deps, events, calls, call, _REACHED[event.status], raw)
    result = "stored"
    if call.over:
        result = await _explain(calls, call, explanation_of(event.status, call.detail, detail=event.detail))
    else:
        ending = ending_of(
            event.status,
            answered=call.answered_at is not None,
            detail=event.detail,
            disconnected_by=event.disconnected_by,
        )
        if ending is not None:
            result = await _end(deps, call, ending)
    await events.record(raw)
    return result


async def _keep(events: Events, raw: RawEvent) -> str:
    return "stored" if await events.record(raw) else "repeated"


async def _media_leg(deps: ApiDeps, events: Events, calls: Calls, event: VonageEvent, raw: RawEvent) -> str:
    """The socket is a leg of its own: its end is not the call's end, but without it there will be no conversation."""
    assert event.status is not None
    ending = media_failure(event.status, event.detail)
    named = _MEDIA_PATH.search(event.to or "")
    call = None if ending is None or named is None else await calls.get(named.group(1))
    if ending is None or call is None or call.answered_at is None:
        return await _keep(events, raw)
    result = await (_explain(calls, call, ending) if call.over else _end(deps, call, ending))
    return result if await events.record(raw) else "repeated"


async def _explain(calls: Calls, call: CallRow, ending: Ending | None) -> str:
    if ending is None or call.detail not in VAGUE:
        return "stored"
    explained = await calls.explain(
        call.id, vague=VAGUE, outcome=ending.outcome, detail=ending.detail, verdict=settle_lead
    )
    return "folded" if explained else "stored"


async def _slot_id(deps: ApiDeps, call: CallRow) -> str:
    """Outbound slots have the attempt's id, inbound ones the call's."""
    attempts = await Attempts(deps.db, call.tenant_id).for_call(call.id)
    return attempts[-1].id if attempts else call.id


async def _bind(deps: ApiDeps, attempt: AttemptRow, event: VonageEvent) -> bool:
    """The first webhook of a call tells which call the attempt became. False: the attempt had been given up."""
    assert event.uuid is not None
    if await Attempts(deps.db, attempt.tenant_id).bind(attempt.id, event.uuid, event.region_url):
        return True
    log.warning("orphan_call", call_id=attempt.call_id, attempt_id=attempt.id, status=event.status)
    if event.status not in TERMINAL:
        # Nobody waits for this call any more: a person must not pick up to silence.
        try:
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await deps.control.hang_up(event.uuid, region_url=event.region_url)
        except (ProviderError, TimeoutError) as error:
            log.error("orphan_not_hung_up", call_id=attempt.call_id, error=str(error) or "timeout")
    return False


async def _advance(deps: ApiDeps, events: Events, calls: Calls, call: CallRow, reached: str, raw: RawEvent) -> str:
    now = deps.clock.now()
    if reached == "answered" and call.answered_at is None:
        moved = await calls.answered(call.id, now, event=raw)
    elif reached == "ringing" and call.status in ("queued", "dialing"):
        moved = await calls.ringing(call.id, now, event=raw)
    else:
        # The call is further already: the usual case, for the answer webhook comes before the event `answered`.
        return await _keep(events, raw)
    if moved:
        await deps.live.publish(call.id, {"type": "status", "status": reached})
    return "folded" if moved else "stored"


async def _end(deps: ApiDeps, call: CallRow, ending: Ending) -> str:
    if call.started_at is not None or await deps.live.last_beat(call.id) is not None:
        # A session has, or had, this call and writes its end, with what was said; if it died, the reconciler does.
        return "stored"
    ended = await end_without_media(
        deps.db,
        deps.live,
        call.tenant_id,
        call.id,
        outcome=ending.outcome,
        detail=ending.detail,
        slot_id=await _slot_id(deps, call),
        at=deps.clock.now(),
    )
    if ended:
        await deps.call_ended()
    return "folded" if ended else "stored"
