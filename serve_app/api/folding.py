"""Call events of the network, folded into the record of the call: repeated, late and out of order as they come.

What becomes of the call is judged by all its events together (`dialing.carrier_events.judge`), so the order of arrival
does not matter, and an event that is folded twice changes nothing.
"""

from __future__ import annotations

import asyncio
import re
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
from serve_app.store.callers import owner_of, tenant_that_called
from serve_app.store.repositories import (
    AttemptRow,
    Attempts,
    CallFolding,
    CallRow,
    Calls,
    Charge,
    EventContext,
    Events,
    RawEvent,
)
from serve_app.telephony.vonage.webhooks import VonageEvent

HANG_UP_TIMEOUT_S = 5.0
ID_CHARS = 128
_MEDIA_PATH = re.compile(r"/media/([0-9a-f-]{36})(?:/|$)")
log = structlog.get_logger(__name__)


async def fold(
    deps: ApiDeps,
    event: VonageEvent,
    ref: AttemptRef | None,
    raw: RawEvent,
    *,
    tenant_id: str | None = None,
    kept: bool = False,
) -> str:
    """Apply one event. Returns a word for the metrics: what came of it.

    It is kept together with what it changes: if that fails, the network's retry is not taken for a repetition.
    `kept`: it is on record already. `tenant_id`: whose it is, if that was asked before.
    """
    tenant = tenant_id or await tenant_of(deps, event, ref)
    return await _Fold(deps, tenant, event, ref, raw, kept=kept).apply()


async def fold_again(deps: ApiDeps, call: CallRow, raw: RawEvent) -> bool:
    """Judge a call anew by what is kept already: events that came before the call was known, and `raw`.

    True: that changed its record.
    """
    return await _Fold(deps, call.tenant_id, VonageEvent(), None, raw, kept=True).judged(call, None) == "folded"


async def tenant_of(deps: ApiDeps, event: VonageEvent, ref: AttemptRef | None) -> str:
    """Whose call it is: our link says so; without one, the owner of the number of ours that it names.

    All tenants without numbers call from the account's own one, also where somebody owns it. So who calls that one back
    reaches the tenant that called last, and an opt-out holds for whoever would call again.
    """
    if ref is not None:
        return ref.tenant_id
    numbers = event.to, event.from_
    if deps.settings.telephony.vonage.from_number not in numbers and (owner := await owner_of(deps.db, *numbers)):
        return owner
    return (
        await tenant_that_called(deps.db, event.uuid, *numbers)
        or await owner_of(deps.db, *numbers)
        or deps.settings.tenant
    )


def call_of(event: VonageEvent) -> str | None:
    """The id of the call that an event is about: the carrier's, or ours for an event of the leg to our media socket."""
    named = _MEDIA_PATH.search(event.to or "") if event.of_media_leg else None
    if named is not None:
        return named.group(1)
    return event.uuid[:ID_CHARS] if event.uuid is not None else None


class _Fold:
    """One event on its way into the record."""

    def __init__(
        self, deps: ApiDeps, tenant_id: str, event: VonageEvent, ref: AttemptRef | None, raw: RawEvent, *, kept: bool
    ) -> None:
        self._deps = deps
        self._tenant_id = tenant_id
        self._event = event
        self._ref = ref
        self._raw = raw
        self._kept = kept
        self._charge: Charge | None = None
        self._events = Events(deps.db, tenant_id)
        self._folding = CallFolding(deps.db, tenant_id, clock=deps.clock)

    async def apply(self) -> str:
        event = self._event
        if event.uuid is None or event.status is None:
            return await self._keep()
        if event.of_media_leg:
            return await self._media_leg()
        known = await self._known(event.uuid)
        if known is None:
            return await self._keep()
        if known.seen and not self._kept:
            return "repeated"
        attempt, facts = known.attempt, facts_in(self._raw, known.call.direction)
        if attempt is not None and facts.cost is not None:
            # Whoever ends the call, and also where the attempt had been given up: it was charged for.
            self._charge = Charge(attempt.id, facts.cost)
        if attempt is not None and not await self._bound(attempt, event.uuid):
            now = await Attempts(self._deps.db, self._tenant_id).get(attempt.id)
            if now is not None and now.carrier_call_id is None:
                await self._keep()
                await self._hang_up_orphan(attempt, event.uuid)
                return "orphan"
            if now is None or now.carrier_call_id != event.uuid:
                return await self._keep()
            # Another event of the same call was faster, and ended it.
        return await self._fold_into(known.call, attempt, facts)

    async def judged(self, call: CallRow, attempt: AttemptRow | None) -> str:
        """Make of the call what all its events together say."""
        event = None if self._kept else self._raw
        result, state = await self._folding.fold(call.id, event, judge, settle_lead, charge=self._charge)
        if result == "ended" and state is not None:
            slot_id = await self._slot_id(call, attempt)
            await announce_end(self._deps.live, call.id, outcome=state.outcome, detail=state.detail, slot_id=slot_id)
            await self._deps.call_ended()
        return "folded" if result in ("ended", "corrected") else result

    async def _known(self, carrier_call_id: str) -> EventContext | None:
        key = self._raw.dedupe_key
        known = await self._events.of_attempt(key, self._ref.attempt_id) if self._ref is not None else None
        return known if known is not None else await self._events.of_carrier_call(key, carrier_call_id)

    async def _bound(self, attempt: AttemptRow, carrier_call_id: str) -> bool:
        """Whether the attempt is this call of the carrier's; the first webhook of a call tells which one it became."""
        if attempt.carrier_call_id is not None:
            return attempt.carrier_call_id == carrier_call_id
        attempts = Attempts(self._deps.db, self._tenant_id)
        return await attempts.bind(attempt.id, carrier_call_id, self._event.region_url)

    async def _media_leg(self) -> str:
        """The socket is a leg of its own: its end is not the call's end, but without it there is no conversation."""
        call_id = call_of(self._event)
        if call_id is None or facts_in(self._raw, "outbound") == CallFacts():
            return await self._keep()
        call = await Calls(self._deps.db, self._tenant_id).get(call_id)
        if call is None:
            return await self._keep()
        return await self._fold_into(call, None, facts_in(self._raw, call.direction))

    async def _fold_into(self, call: CallRow, attempt: AttemptRow | None, facts: CallFacts) -> str:
        if facts.machine:
            # Whether or not a session has the call, or had it. What the conversation reports says more, and stays.
            attempts = Attempts(self._deps.db, self._tenant_id, clock=self._deps.clock)
            await attempts.report(call.id, Disposition.MACHINE, unless_told=True, verdict=settle_lead)
        if call.started_at is not None or facts == CallFacts():
            return await self._keep()
        if not call.over and facts.over_at is None and facts.media_failed_at is None:
            return await self._advance(call, attempt, facts)
        if not call.over and await self._deps.live.last_beat(call.id) is not None:
            # A session has, or had, this call and writes its end, with what was said; if it died, the reconciler does.
            return await self._keep()
        return await self.judged(call, attempt)

    async def _advance(self, call: CallRow, attempt: AttemptRow | None, facts: CallFacts) -> str:
        if not is_news(call, facts):
            # The call is further already.
            return await self._keep()
        reached: Literal["answered", "ringing"] = "answered" if facts.reached is Reached.ANSWERED else "ringing"
        at = facts.answered_at or self._raw.received_at
        result = await self._folding.reach(call.id, reached, at, None if self._kept else self._raw)
        if result == "stored":
            # It ended, or moved on, since the row was read.
            return await self.judged(call, attempt)
        if result == "moved" and call.status in ("queued", "dialing", "ringing"):
            await self._deps.live.publish(call.id, {"type": "status", "status": reached})
        return "folded" if result == "moved" else result

    async def _keep(self) -> str:
        if not self._kept:
            return "stored" if await self._events.record(self._raw, self._charge) else "repeated"
        if self._charge is not None:
            await self._events.charged(self._charge)
        return "stored"

    async def _slot_id(self, call: CallRow, attempt: AttemptRow | None) -> str:
        """Outbound slots have the attempt's id, inbound ones the call's."""
        if attempt is not None or call.direction == "inbound":
            return call.id if attempt is None else attempt.id
        attempts = await Attempts(self._deps.db, self._tenant_id).for_call(call.id)
        return attempts[-1].id if attempts else call.id

    async def _hang_up_orphan(self, attempt: AttemptRow, carrier_call_id: str) -> None:
        """Nobody waits for this call any more, for its attempt had been given up: nobody must pick up to silence."""
        status = self._event.status
        log.warning("orphan_call", call_id=attempt.call_id, attempt_id=attempt.id, status=status)
        if status in TERMINAL:
            return
        try:
            async with asyncio.timeout(HANG_UP_TIMEOUT_S):
                await self._deps.control.hang_up(carrier_call_id, region_url=self._event.region_url)
        except (ProviderError, TimeoutError) as error:
            log.error("orphan_not_hung_up", call_id=attempt.call_id, error=str(error) or "timeout")
