"""Placing calls: claim, decide, reserve, pace, fence, one request, record.

SQL is the truth and every step is a conditional update there, so two dialers at once are harmless and a dialer that
dies loses nothing. The contract: at most one create-call request per attempt, no request without a session to take
the call, and a recorded disposition for every attempt. Where a request's outcome is not known, nothing is sent again:
a webhook that carries the attempt's signed link, or the reconciler, finds out.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import structlog

from serve_app.clock import Clock
from serve_app.conversation.lease import Outcome
from serve_app.dialing.call_limits import CallLimits, explained, tenant_scope
from serve_app.dialing.dispositions import DEAD_NUMBER
from serve_app.dialing.endings import end_without_media
from serve_app.dialing.fairness import TenantTurns
from serve_app.dialing.links import AttemptLinks, AttemptRef
from serve_app.dialing.openings import AgentVersion, Openings, Prepare
from serve_app.dialing.pacing import LONGEST_PACE_S, Backpressure, most_waiting
from serve_app.dialing.plans import Plans
from serve_app.dialing.reconcile import AttemptReconciler
from serve_app.dialing.rules import Allow, Decision, Defer, Deny, Reason
from serve_app.dialing.single_calls import SingleCalls
from serve_app.dialing.slot_queue import SlotQueue
from serve_app.dialing.tenants import intended_work
from serve_app.errors import ProviderError, UnavailableError
from serve_app.metrics import ATTEMPTS
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.repositories import AttemptRow, Attempts, ClaimRow
from serve_app.store.slots import SESSIONS
from serve_app.telephony.vonage.rest import NoSuchNumber, NotPlaced, OutcomeUnknown, PlacedCall, VonageClient

# How often the claims of calls that wait for a slot are renewed: their leases stay short, so that after a crash the
# next dialer takes over soon, and yet nobody loses the place in the queue.
RENEWAL_S = 5.0
# Between the last check and the request: a commit, a Redis round trip, a busy event loop.
MARGIN_S = 5.0
IDLE_S = 5.0
# How late after its deadline a call may still be claimed for its last try. One that waited longer, because no dialer
# ran, is not placed: nobody expects it any more.
LATE_S = 10.0
SHORTEST_WAIT_S = 0.05
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 15.0
# Ended in one look, so that many of them do not hold up those that may be placed.
MOST_BARRED = 20
# Every request leaves this long after its slot of the rate: the time that its fence may take. It is the same for all,
# so the rate is kept; a request that would be later still takes another slot, instead of leaving together with the next
# ones. `FENCED_S`: how old its fence may be when it takes one: what is forbidden meanwhile is called once more.
AFTER_SLOT_S = 0.25
MOST_LATE_S = 0.05
FENCED_S = 0.7
# Key, balance, rights: as long as that is so, the network refuses every call.
OF_ACCOUNT = (401, 402, 403)
# After a 429 that names no time. It means that somebody else uses the account, or that our own pacing is wrong.
RATE_LIMITED_S = 2.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Claim:
    """An attempt that this dialer holds."""

    attempt: ClaimRow
    leased_at: float
    """Monotonic time of the claim, or of its last renewal: asked before SQL was, so never too late."""
    waiting: asyncio.Task[str | None] | None = None
    """While it waits for a slot; what was full in the end."""


class Dialer:
    """One dialer. `owner` names it in the claims; any number may run at once."""

    def __init__(
        self,
        db: Database,
        live: LiveState,
        vonage: VonageClient,
        settings: Settings,
        clock: Clock,
        owner: str,
        *,
        simulated_network: bool | None = None,
        plans: Plans | None = None,
        prepare: Prepare | None = None,
        moved: Callable[[], None] | None = None,
    ) -> None:
        """`prepare`: asked for the opening of an agent version before its first call of this process is placed.

        `plans` None: those that come with Parley.
        `moved`: told whenever an attempt was placed, ended or put back.
        """
        network = settings.telephony.vonage
        self._db = db
        self._live = live
        self._vonage = vonage
        self._clock = clock
        self.pressure = Backpressure(settings.dialing.slow_request_s)
        """What this dialer learns of the network's troubles."""
        self._moved = moved
        self._owner = owner
        self._network = network
        self._queue_timeout_s = settings.dialing.queue_timeout_s
        self._single_calls = SingleCalls(settings, simulated_network=simulated_network, plans=plans)
        self._limits = CallLimits(settings, simulated_network=simulated_network, plans=plans)
        self._links = AttemptLinks(settings)
        self._reconciler = AttemptReconciler(db, live, vonage, settings, clock)
        self._lease_s = RENEWAL_S + LONGEST_PACE_S + network.request_timeout_s + MARGIN_S
        self._slot_ttl_s = network.ringing_timer_s + 30 + network.request_timeout_s
        self._pace_key = f"vonage:{network.application_id or 'simulated'}"
        self._most_in_flight = most_waiting(network.calls_per_second)
        self._slots = SlotQueue(live, clock, owner, self.wake)
        self._openings = Openings(prepare, clock)
        self._turns = TenantTurns()
        self._fence_s = 0.0
        """What the last fences took at most, forgotten slowly."""
        self._in_flight = 0
        self._waiting: dict[str, Claim] = {}
        self._stopping = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something may be due now: a call was requested, or one has ended. Safe to call at any time, any often."""
        self._woken.set()

    async def stop(self) -> None:
        """Claim nothing more, and wait until every request that left has its answer. Then `run` may be cancelled.

        Calls that wait for a slot go back, for another dialer. Bounded by the attempts' lease: what is not answered by
        then is the reconciler's.
        """
        self._stopping = True
        for claim in self._waiting.values():
            assert claim.waiting is not None
            claim.waiting.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lease_s):
                while self._in_flight:
                    self._woken.clear()
                    await self._woken.wait()

    async def run(self) -> None:
        """Dial until cancelled. Failures of SQL or Redis are logged and waited out."""
        backoff_s = FIRST_BACKOFF_S
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reconciler.run())
            group.create_task(self._slots.report_demand())
            group.create_task(self._renew_waiting())
            while True:
                self._woken.clear()
                try:
                    claims, wait_s = await self._claim()
                    for claim in claims:
                        self._in_flight += 1
                        group.create_task(self._work(claim))
                    backoff_s = FIRST_BACKOFF_S
                except UnavailableError as error:
                    log.error("dialer_waits_for_sql", error=str(error), retry_in_s=backoff_s)
                    wait_s, backoff_s = backoff_s, min(backoff_s * 2, LONGEST_BACKOFF_S)
                except Exception:  # the root of the loop: dialing must go on whatever one look met
                    log.exception("dialer_failed", retry_in_s=backoff_s)
                    wait_s, backoff_s = backoff_s, min(backoff_s * 2, LONGEST_BACKOFF_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._woken.wait()

    async def _claim(self) -> tuple[list[Claim], float]:
        """What can be placed now, and the seconds until there may be more; bounded, for a wake-up may get lost."""
        claims: list[Claim] = []
        # Calls that wait for room in their own tenant or campaign take nobody's place.
        most = self._most_in_flight + self._slots.aside
        if self._stopping or self._in_flight >= most:
            return claims, IDLE_S
        now, leased_at = self._clock.now(), self._clock.monotonic()
        wait_s = IDLE_S
        found = await intended_work(self._db, now)
        due = {work.tenant_id: work.due for work in found if not self._slots.is_awaited(tenant_scope(work.tenant_id))}
        shares = self._turns.share(due, most - self._in_flight)
        for work in found:
            try:
                if work.barred:
                    await self._end_barred(work.tenant_id)
                if share := shares[work.tenant_id]:
                    repository = Attempts(self._db, work.tenant_id, clock=self._clock)
                    claimed = await repository.claim_intended(self._owner, limit=share, lease_s=self._lease_s, now=now)
                    claims += [Claim(attempt, leased_at) for attempt in claimed]
            except UnavailableError:
                raise
            except Exception:  # the root of a tenant's turn: it must not hold up the others
                log.exception("tenant_not_dialed", tenant_id=work.tenant_id)
            if work.next_at is not None:
                wait_s = min(wait_s, max(SHORTEST_WAIT_S, (work.next_at - now).total_seconds()))
        return claims, wait_s

    async def _end_barred(self, tenant: str) -> None:
        """Calls that a listing, a switch or a pause stopped while they waited; some, and the others next time."""
        barred = await Attempts(self._db, tenant).barred(limit=MOST_BARRED)
        ended = 0
        for attempt in barred:
            code = attempt.rules_reason
            why = next((reason.explanation for reason in Reason if reason == code), "its lead was closed meanwhile")
            try:
                ended += await self._end(attempt, "not_allowed", f"{code}: {why}", unsent_only=True)
            except UnavailableError:
                raise
            except Exception:
                log.exception("attempt_not_ended", call_id=attempt.call_id, attempt_id=attempt.id)
        ATTEMPTS.labels("not_allowed").inc(ended)
        if ended and len(barred) == MOST_BARRED:
            self.wake()

    async def _renew_waiting(self) -> None:
        """Renew the claims of the calls that wait, all of a tenant in one statement. Until cancelled."""
        while True:
            await self._clock.sleep(RENEWAL_S)
            held: dict[str, list[Claim]] = defaultdict(list)
            for claim in self._waiting.values():
                held[claim.attempt.tenant_id].append(claim)
            for tenant, claims in held.items():
                try:
                    await self._renew(tenant, claims)
                except UnavailableError as error:
                    # Whoever gets a slot after its lease is over goes back to the queue.
                    log.warning("claims_not_renewed", error=str(error))
                except Exception:
                    log.exception("claims_not_renewed", tenant_id=tenant)

    async def _renew(self, tenant: str, claims: list[Claim]) -> None:
        asked_at = self._clock.monotonic()
        ids = [claim.attempt.id for claim in claims]
        kept = await Attempts(self._db, tenant).renew(ids, self._owner, lease_s=self._lease_s, now=self._clock.now())
        for claim in claims:
            if claim.attempt.id in kept:
                claim.leased_at = asked_at
            elif claim.waiting is not None:
                # Cancelled by a person, or another dialer's after an outage.
                claim.waiting.cancel()

    async def _work(self, claim: Claim) -> None:
        attempt = claim.attempt
        try:
            with structlog.contextvars.bound_contextvars(call_id=attempt.call_id, attempt_id=attempt.id):
                result = await self._dial(claim)
                ATTEMPTS.labels(result).inc()
                log.info("attempt", result=result)
        except UnavailableError as error:
            # Before the fence the lease runs out and the attempt is claimed anew; after it, the reconciler asks.
            log.error("attempt_interrupted", call_id=attempt.call_id, error=str(error))
        except Exception:
            log.exception("attempt_failed", call_id=attempt.call_id)
        finally:
            self._in_flight -= 1
            self.wake()
            if self._moved is not None:
                self._moved()

    async def _dial(self, claim: Claim) -> str:
        """One claimed attempt. Returns what became of it, one of a small set of words."""
        attempt = claim.attempt
        # First, so that one that cannot be decided on comes to its end.
        if self._clock.now() > attempt.give_up_at + timedelta(seconds=LATE_S):
            return await self._decline(attempt, "no_capacity", "its deadline passed before a dialer took it")
        decision = await self._decide(attempt)
        if not isinstance(decision, Allow):
            return await self._decline(attempt, "not_allowed", _explained(decision))
        agent = AgentVersion(attempt.tenant_id, attempt.agent_name, attempt.agent_version)
        self._openings.ask(agent)
        full = await self._reserve(claim)
        if full is not None:
            if claim.waiting is not None and claim.waiting.cancelled() and not self._stopping:
                await self._lost(attempt)
                return "lost_claim"
            if self._clock.now() < attempt.give_up_at:
                await self._keep_place(attempt)
                return "waiting"
            return await self._decline(attempt, "no_capacity", explained(full, self._queue_timeout_s))
        # Before the rate's slot is taken: those that wait for the same thing after it would leave together.
        await self._openings.wait(agent)
        return await self._in_its_slot(claim, decision)

    async def _in_its_slot(self, claim: Claim, decision: Allow) -> str:
        """Take the rate's next slot, and send the request in it: fenced just before, and not later."""
        attempt = claim.attempt
        asked_at = self._clock.monotonic()
        pace_s = await self._live.throttle(self._pace_key, self._network.calls_per_second, longest_s=LONGEST_PACE_S)
        if pace_s > LONGEST_PACE_S:
            return await self._too_early(attempt, pace_s)
        # Between these two was the slot given: not before the one, and not too late after the other.
        send_at = self._clock.monotonic() + pace_s + AFTER_SLOT_S
        latest_at = asked_at + pace_s + AFTER_SLOT_S + MOST_LATE_S
        await self._clock.sleep(pace_s + AFTER_SLOT_S - self._fence_s)
        fencing_at = self._clock.monotonic()
        full = await self._live.reserve_in(self._limits.of(attempt), attempt.id, self._slot_ttl_s)
        if full is not None or self._late(claim):
            await self._keep_place(attempt)
            return "waiting"
        if (over := self._over(attempt, decision)) is not None:
            return await self._decline(attempt, *over)
        if not await self._attempts(attempt).fence_placing(attempt.id, attempt.epoch):
            await self._lost(attempt)
            return "lost_claim"
        fenced_at = self._clock.monotonic()
        self._fence_s = min(AFTER_SLOT_S, max(fenced_at - fencing_at, 0.9 * self._fence_s))
        await self._clock.sleep(max(0.0, send_at - fenced_at))
        while self._clock.monotonic() > latest_at:
            # The commit took long, and the slot is over: the next one, while the fence is fresh.
            asked_at = self._clock.monotonic()
            left_s = fenced_at + FENCED_S - asked_at
            pace_s = math.inf
            if left_s > 0:
                pace_s = await self._live.throttle(self._pace_key, self._network.calls_per_second, longest_s=left_s)
            if pace_s > left_s:
                log.warning("slot_missed", late_s=round(asked_at - send_at, 3))
                await self._keep_place(attempt)
                return "waiting"
            latest_at = asked_at + pace_s + AFTER_SLOT_S + MOST_LATE_S
            await self._clock.sleep(pace_s + AFTER_SLOT_S)
        if self._late(claim):
            # The lease may be over, and nothing was sent: say so.
            await self._keep_place(attempt)
            return "waiting"
        if (over := self._over(attempt, decision)) is not None:
            # Past its fence, so it is this dialer's to end.
            await self._end(attempt, *over)
            return over[0]
        return await self._request(attempt)

    def _over(self, attempt: AttemptRow, decision: Allow) -> tuple[Outcome, str] | None:
        """Why it is too late to call now, as an end of the attempt; None: it is not."""
        now = self._clock.now()
        if decision.until is not None and now >= decision.until:
            return "not_allowed", _explained(Defer(decision.until, Reason.OUTSIDE_WINDOW))
        if attempt.campaign_id is not None and now >= attempt.give_up_at:
            return "no_capacity", "its time was over before it could be placed"
        return None

    async def _decide(self, attempt: AttemptRow) -> Decision:
        """A campaign's call was decided on in the claim of its lead, for the time until its `give_up_at`.

        What has been forbidden since (a listing, a switch, a pause), the fence sees.
        """
        if attempt.campaign_id is not None:
            return Allow()
        rules, now = self._single_calls, self._clock.now()
        return await rules.decide(self._db, attempt.tenant_id, attempt.to_number, now, queued=True)

    async def _too_early(self, attempt: AttemptRow, pace_s: float) -> str:
        """The account's rate has no room within the claim: come back when it has, if that is before the deadline."""
        delay_s = pace_s - LONGEST_PACE_S / 2
        if self._clock.now() + timedelta(seconds=delay_s) >= attempt.give_up_at:
            waited = "the account's rate of calls left no room before the deadline; the call was not placed"
            return await self._decline(attempt, "no_capacity", waited)
        await self._live.release(attempt.id)
        await self._release(attempt, delay_s)
        return "waiting"

    async def _reserve(self, claim: Claim) -> str | None:
        """Wait for a slot until the call's own deadline, as `SlotQueue.take`; also ends when the claim is lost."""
        attempt = claim.attempt
        if self._stopping:
            return SESSIONS
        left_s = (attempt.give_up_at - self._clock.now()).total_seconds()
        scopes = self._limits.of(attempt)
        take = self._slots.take(scopes, attempt.id, ttl_s=self._slot_ttl_s, longest_s=left_s)
        claim.waiting = asyncio.create_task(take)
        self._waiting[attempt.id] = claim
        try:
            await asyncio.wait([claim.waiting])
            return SESSIONS if claim.waiting.cancelled() else claim.waiting.result()
        finally:
            claim.waiting.cancel()
            del self._waiting[attempt.id]

    def _late(self, claim: Claim) -> bool:
        """True if the lease could end before the request would."""
        spent_s = self._clock.monotonic() - claim.leased_at
        return spent_s > self._lease_s - self._network.request_timeout_s

    async def _request(self, attempt: AttemptRow) -> str:
        """Send the one request. From here on the attempt never goes back unless the network proved that it refused."""
        ref = AttemptRef(tenant_id=attempt.tenant_id, attempt_id=attempt.id)
        asked_at = self._clock.monotonic()
        try:
            placed = await self._vonage.create_call(
                attempt.to_number,
                attempt.from_number,
                answer_url=self._links.answer_url(ref),
                event_url=self._links.event_url(ref),
                ringing_timer=self._network.ringing_timer_s,
                length_timer=self._network.length_timer_s,
                on_machine=None if self._network.machine_detection == "off" else self._network.machine_detection,
            )
        except ValueError as error:
            # No request can be made of it, so none was.
            self.pressure.failed(self._clock.monotonic())
            await self._end(attempt, "not_placed", f"the call cannot be asked for: {error}")
            return "refused"
        except NotPlaced as error:
            return await self._refused(attempt, error)
        except OutcomeUnknown as error:
            self.pressure.failed(self._clock.monotonic())
            await self._attempts(attempt).unknown(attempt.id, str(error))
            return "unknown"
        answered_at = self._clock.monotonic()
        if self.pressure.answered(answered_at - asked_at, answered_at):
            log.warning("network_is_slow", request_s=round(answered_at - asked_at, 3))
        return await self._placed(attempt, placed)

    async def _placed(self, attempt: AttemptRow, placed: PlacedCall) -> str:
        repository = self._attempts(attempt)
        if await repository.placed(attempt.id, placed.uuid, placed.conversation_uuid):
            return "placed"
        # The attempt was ended meanwhile: by a webhook that said so, or by a person who hung up. A call that is over
        # at the network does not mind being hung up.
        try:
            await self._vonage.hang_up(placed.uuid)
        except ProviderError as error:
            log.error("orphan_not_hung_up", error=str(error))
        await self._live.release(attempt.id)
        return "ended_meanwhile"

    async def _refused(self, attempt: AttemptRow, error: NotPlaced) -> str:
        """Proven not placed, which counts for nothing. What may pass (rate, no connection) is tried until the deadline.

        Only the callee's number can be to blame by itself; all else would befall the next call as well.
        """
        if isinstance(error, NoSuchNumber):
            await self._end(attempt, "not_placed", DEAD_NUMBER)
            return "refused"
        if error.status in OF_ACCOUNT:
            self.pressure.account_refused(str(error), self._clock.monotonic())
        else:
            self.pressure.failed(self._clock.monotonic())
        if not error.retryable:
            await self._end(attempt, "not_placed", f"the network refused the call: {error}")
            return "refused"
        delay_s = error.retry_after_s if error.retry_after_s is not None else RATE_LIMITED_S
        if self._clock.now() + timedelta(seconds=delay_s) >= attempt.give_up_at:
            await self._end(attempt, "not_placed", f"the network did not take the call before its deadline: {error}")
            return "refused"
        await self._live.release(attempt.id)
        await self._release(attempt, delay_s)
        return "not_placed"

    async def _decline(self, attempt: AttemptRow, outcome: Outcome, detail: str) -> str:
        """End an attempt that was not sent. Fenced like a request: a paused dialer must not end another one's call."""
        if not await self._attempts(attempt).fence_placing(attempt.id, attempt.epoch):
            await self._lost(attempt)
            return "lost_claim"
        await self._end(attempt, outcome, detail)
        return outcome

    async def _lost(self, attempt: AttemptRow) -> None:
        """The fence refused. A slot has its attempt's id: another dialer's claim keeps it, a cancelled one frees it."""
        now = await self._attempts(attempt).get(attempt.id)
        if now is None or now.status == "ended":
            await self._live.release(attempt.id)

    async def _keep_place(self, attempt: AttemptRow) -> None:
        """Back among the intended, where it was: due since it was due, so ahead of everything that came later."""
        await self._attempts(attempt).release(attempt.id, attempt.epoch, min(attempt.next_at, attempt.give_up_at))

    async def _release(self, attempt: AttemptRow, delay_s: float) -> None:
        retry_at = min(self._clock.now() + timedelta(seconds=delay_s), attempt.give_up_at)
        await self._attempts(attempt).release(attempt.id, attempt.epoch, retry_at)

    async def _end(self, attempt: AttemptRow, outcome: Outcome, detail: str, *, unsent_only: bool = False) -> bool:
        return await end_without_media(
            self._db,
            self._live,
            attempt.tenant_id,
            attempt.call_id,
            outcome=outcome,
            detail=detail,
            slot_id=attempt.id,
            at=self._clock.now(),
            unsent_only=unsent_only,
        )

    def _attempts(self, attempt: AttemptRow) -> Attempts:
        return Attempts(self._db, attempt.tenant_id, clock=self._clock)


def _explained(refusal: Defer | Deny) -> str:
    return f"{refusal.reason}: {refusal.explanation}"
