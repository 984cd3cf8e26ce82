"""What became of attempts whose request got no answer, and of calls whose last webhook never came.

The network is asked, never called again. A lost response is usually healed by the first webhook within a second; this
is for the rest. All decisions are in SQL, so any number of reconcilers may run and a restart forgets nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from serve_app.clock import Clock
from serve_app.conversation.lease import Outcome
from serve_app.dialing.carrier_status import ending_of
from serve_app.dialing.endings import end_without_media
from serve_app.dialing.looks import together, window_of
from serve_app.dialing.strays import hang_up_strays
from serve_app.dialing.tenants import is_bound, tenants_with_live_attempts
from serve_app.errors import ProviderError, UnavailableError
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.repositories import AttemptRow, Attempts, CallRow, Calls
from serve_app.telephony.vonage.rest import VonageClient
from serve_app.telephony.vonage.snapshot import CallSnapshot

# A doubt is closed within two minutes of a death: its attempt's lease, the grace, the second look, and three sweeps.
SWEEP_S = 5.0
# A webhook of a call that was placed comes within seconds; the list of calls may lag behind it.
WEBHOOK_GRACE_S = 15.0
SECOND_LOOK_S = 60.0
NETWORK_DOWN_S = 30.0
# Of the 15 requests a second that the account has for all but new calls (Vonage): the others are for hanging up.
LOOKS_PER_S = 10
# A phone that rings for nobody: rare enough, and soon enough.
STRAYS_S = 30.0
ABSENT_ONCE = "not found at the network, looked once"
# Beyond its ring time a call has been answered, or its last webhook was lost.
SILENT_MARGIN_S = 60.0
ALARM_AGE = timedelta(hours=1)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """An attempt that the network has to be asked for."""

    attempts: Attempts
    attempt: AttemptRow
    placing_at: datetime


class AttemptReconciler:
    """Sweeps over the attempts and calls of every tenant that has live ones."""

    def __init__(self, db: Database, live: LiveState, vonage: VonageClient, settings: Settings, clock: Clock) -> None:
        self._db = db
        self._live = live
        self._vonage = vonage
        self._clock = clock
        network = settings.telephony.vonage
        self._silent_s = network.ringing_timer_s + SILENT_MARGIN_S
        self._looks_key = f"vonage:{network.application_id or 'simulated'}:looks"
        self._strays_at = self._clock.monotonic()

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await self._clock.sleep(SWEEP_S)
            try:
                await self.sweep()
            except UnavailableError as error:
                log.error("reconcile_interrupted", error=str(error))
            except Exception:
                # The root of the loop: reconciling must go on whatever one sweep met.
                log.exception("reconcile_failed")

    async def sweep(self) -> None:
        """One look at everything that is in doubt. Raises UnavailableError.

        What the network does not answer is asked again later, and keeps nothing else waiting.
        """
        tenants = await tenants_with_live_attempts(self._db)
        doubts: list[_Doubt] = []
        for tenant in tenants:
            attempts = Attempts(self._db, tenant, clock=self._clock)
            for attempt in await attempts.stale(self._clock.now()):
                if attempt.status == "placing" or attempt.placing_at is None:
                    # Its dialer stopped between the fence and the record of the answer.
                    reason = "the dialer stopped while placing it"
                    await attempts.unknown(attempt.id, reason, check_after_s=WEBHOOK_GRACE_S)
                else:
                    doubts.append(_Doubt(attempts, attempt, attempt.placing_at))
        for some in together(doubts, _placing_at):
            await self._ask(some)
        for tenant in tenants:
            await self._close_silent(tenant)
        if self._clock.monotonic() >= self._strays_at:
            self._strays_at = self._clock.monotonic() + STRAYS_S
            try:
                await hang_up_strays(self._db, self._vonage, self._clock, self._turn)
            except ProviderError as error:
                log.error("strays_not_looked_for", error=str(error))

    async def _ask(self, doubts: Sequence[_Doubt]) -> None:
        """Look for attempts of one time in the network's list of calls."""
        try:
            since, until = window_of(doubts[0].placing_at, doubts[-1].placing_at)
            calls = await self._vonage.list_calls(since, until, self._turn)
        except ProviderError as error:
            log.error("doubts_not_asked", attempts=len(doubts), error=str(error))
            for doubt in doubts:
                await doubt.attempts.unknown(doubt.attempt.id, doubt.attempt.detail or "", check_after_s=NETWORK_DOWN_S)
            return
        for doubt in doubts:
            await self._resolve(doubt, calls)

    async def _turn(self) -> None:
        """Wait for the account's next request that is not a new call."""
        await self._clock.sleep(await self._live.throttle(self._looks_key, LOOKS_PER_S))

    async def _resolve(self, doubt: _Doubt, calls: Sequence[CallSnapshot]) -> None:
        attempts, attempt = doubt.attempts, doubt.attempt
        if self._clock.now() - doubt.placing_at > ALARM_AGE:
            log.error("attempt_unknown_for_long", call_id=attempt.call_id, attempt_id=attempt.id)
        found = await self._find(attempt, calls)
        if found is not None:
            await self._adopt(attempts, attempt, found)
        elif attempt.detail != ABSENT_ONCE:
            await attempts.unknown(attempt.id, ABSENT_ONCE, check_after_s=SECOND_LOOK_S)
        else:
            detail = "the request got no answer, and the network does not know the call; it was not sent again"
            # Only while it is in doubt: a webhook may have come during the look, and then this is a live call.
            if await attempts.end(attempt.id, "unknown", detail, only_from=("unknown",)):
                await self._end(attempt.tenant_id, attempt.call_id, attempt.id, "failed", detail)

    async def _find(self, attempt: AttemptRow, calls: Sequence[CallSnapshot]) -> CallSnapshot | None:
        """The network's call that must be this attempt: same numbers, same time, and nobody else's.

        Tenants may call from one number, so another one's call can look the same.
        """
        for call in calls:
            if (call.to, call.from_) != (attempt.to_number, attempt.from_number) or call.direction == "inbound":
                continue
            if not await is_bound(self._db, call.uuid, other_than=attempt.call_id):
                return call
        return None

    async def _adopt(self, attempts: Attempts, attempt: AttemptRow, found: CallSnapshot) -> None:
        if not await attempts.bind(attempt.id, found.uuid):
            return
        log.info("attempt_adopted", call_id=attempt.call_id, attempt_id=attempt.id, status=found.status)
        call = await Calls(self._db, attempt.tenant_id).get(attempt.call_id)
        if call is not None:
            await self._apply(call, attempt.id, found)

    async def _close_silent(self, tenant: str) -> None:
        """Calls that should have been answered or given up long ago: ask for each, once per sweep."""
        now = self._clock.now()
        calls = Calls(self._db, tenant)
        for call in await calls.active(now - timedelta(seconds=self._silent_s)):
            if call.status not in ("dialing", "ringing") or call.carrier_call_id is None:
                continue
            attempts = await Attempts(self._db, tenant).for_call(call.id)
            slot_id = attempts[-1].id if attempts else call.id
            await self._turn()
            try:
                found = await self._vonage.get_call(call.carrier_call_id, region_url=call.region_url)
            except ProviderError as error:
                log.error("silent_call_not_asked", call_id=call.id, error=str(error))
                continue
            if found is None:
                detail = "the network does not know the call any more"
                await self._end(tenant, call.id, slot_id, "failed", detail)
            else:
                await self._apply(call, slot_id, found)

    async def _apply(self, call: CallRow, slot_id: str, found: CallSnapshot) -> None:
        if call.over or call.started_at is not None:
            return
        ending = ending_of(found.status, answered=call.answered_at is not None or bool(found.duration_s))
        if ending is not None:
            await self._end(call.tenant_id, call.id, slot_id, ending.outcome, ending.detail)

    async def _end(self, tenant: str, call_id: str, slot_id: str, outcome: Outcome, detail: str) -> None:
        await end_without_media(
            self._db,
            self._live,
            tenant,
            call_id,
            outcome=outcome,
            detail=detail,
            slot_id=slot_id,
            at=self._clock.now(),
        )


def _placing_at(doubt: _Doubt) -> datetime:
    return doubt.placing_at
