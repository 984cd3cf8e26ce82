"""Feeding the dialer: from leads that are due to calls that are decided on, for all campaigns of all tenants.

It holds no truth. Each claim is one transaction; what it does not finish, another feeder does, now or after a lease is
over. Two at once are harmless: a lead is claimed once, and both keep to what is under way. It runs when something has
happened (a call was placed or has ended) or when something is due, and now and then in case nobody told it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog

from serve_app.clock import Clock
from serve_app.dialing.batch_choice import CALLS_AT_ONCE, ENOUGH, BatchChooser, Conditions
from serve_app.dialing.campaign_clock import campaign_clock
from serve_app.dialing.fairness import FairShare, Flow
from serve_app.dialing.flows import flows_of, next_start, running_campaigns, under_way
from serve_app.dialing.guarded_choice import GuardedChoice
from serve_app.dialing.halts import Halts
from serve_app.dialing.network import network_is_simulated
from serve_app.dialing.pacing import Backpressure, Load, most_waiting, room
from serve_app.dialing.plans import Plans, shipped_plans
from serve_app.dialing.rules import Jurisdictions, shipped
from serve_app.dialing.single_calls import ringing_margin_s
from serve_app.dialing.upkeep import Upkeep
from serve_app.errors import UnavailableError
from serve_app.metrics import LEADS
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.lead_claims import Claimed, LeadClaims
from serve_app.store.lead_upkeep import next_due, promote
from serve_app.store.live import LiveState
from serve_app.store.reports import TURNS, Reports

UPKEEP_S = 5.0
# Whoever ends a call tells it, but nobody tells that more sessions were started, or that the lease of a lost call is
# over: a channel of Redis for that would be one more connection to watch, to save a question asked only at capacity.
SESSION_POLL_S = 1.0
# Every call that is placed or ends wakes the feeder, and each look reads all running campaigns: what happens within
# this time is one look. It is small beside the seconds for which the calls that wait last.
LEAST_BETWEEN_S = 0.15
SHORTEST_WAIT_S = 0.05
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 15.0
MOST_PROMOTED = 500
# Ready leads are looked at in batches: as many as may be called, then more where they turn out not to be callable.
LEAST_LOOK = 8
MOST_LOOK = 128
MOST_BATCHES = 4
# Much longer than an attempt waits to be placed; a lead whose attempt lives is left alone by the upkeep anyway.
LEAD_LEASE_S = 300.0
SIMULATED_FROM = "+12025550100"

log = structlog.get_logger(__name__)


class Feeder:
    """One feeder. `owner` names it in the leases of leads; any number may run at once.

    `fed`: told when there are new attempts to place. `pressure`: what the dialer learns of the network's troubles.
    `plans`, `law` None: those that come with Parley.
    """

    def __init__(
        self,
        db: Database,
        live: LiveState,
        settings: Settings,
        clock: Clock,
        owner: str,
        *,
        fed: Callable[[], None],
        pressure: Backpressure,
        simulated_network: bool | None = None,
        plans: Plans | None = None,
        law: Jurisdictions | None = None,
    ) -> None:
        network = settings.telephony.vonage
        simulated = network_is_simulated(settings) if simulated_network is None else simulated_network
        self._db = db
        self._live = live
        self._clock = clock
        self._owner = owner
        self._fed = fed
        self._pressure = pressure
        self._lines = network.channels
        self._most_ringing = settings.dialing.max_ringing
        self._most_waiting = most_waiting(network.calls_per_second)
        self._conditions = Conditions(
            law=law or shipped(),
            plans=plans or shipped_plans(),
            ringing_s=ringing_margin_s(settings),
            simulated_network=simulated,
            queue_timeout_s=settings.dialing.queue_timeout_s,
            own_number=network.from_number or (SIMULATED_FROM if simulated else None),
            clock=campaign_clock(settings, simulated_network=simulated),
        )
        self._shares = FairShare()
        self._halts = Halts()
        self._upkeep = Upkeep(db, clock)
        self._turns = Reports(live, TURNS)
        self._woken = asyncio.Event()
        self._upkeep_at = datetime.min.replace(tzinfo=UTC)

    def wake(self) -> None:
        """A call was placed or has ended. Safe at any time, any often."""
        self._woken.set()

    def changed(self, tenant_id: str) -> None:
        """A person of this tenant did something: started a campaign, lifted a switch, added leads.

        What was halted of this tenant is asked again. Safe at any time, any often.
        """
        self._halts.ask_again(tenant_id)
        self._woken.set()

    async def run(self) -> None:
        """Feed until cancelled. Failures of SQL or Redis are logged and waited out."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            self._woken.clear()
            began_at = self._clock.monotonic()
            try:
                wait_s = await self.step()
                backoff_s = FIRST_BACKOFF_S
            except UnavailableError as error:
                log.error("feeder_waits", error=str(error), retry_in_s=backoff_s)
                wait_s, backoff_s = backoff_s, min(backoff_s * 2, LONGEST_BACKOFF_S)
            except Exception:  # the root of the loop: dialing must go on whatever one step met
                log.exception("feeder_failed", retry_in_s=backoff_s)
                wait_s, backoff_s = backoff_s, min(backoff_s * 2, LONGEST_BACKOFF_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
            if wait_s:
                await self._clock.sleep(max(0.0, LEAST_BETWEEN_S - (self._clock.monotonic() - began_at)))

    async def step(self) -> float:
        """Do what is due now, in a bounded time; the seconds until something may be. Raises UnavailableError."""
        now = self._clock.now()
        if now >= self._upkeep_at:
            await self._upkeep.run(now)
            await self._hear_of_replies()
            starts_at = await next_start(self._db)
            regular = now + timedelta(seconds=UPKEEP_S)
            self._upkeep_at = regular if starts_at is None else min(starts_at, regular)
        due_at = await next_due(self._db)
        promoted = 0
        if due_at is not None and due_at <= now:
            promoted = await promote(self._db, now, limit=MOST_PROMOTED)
        if (refusal := self._pressure.take_refusal()) is not None:
            self._halts.account(refusal, now)
        halted_until = self._halts.next(now)
        wait_s = await self._feed(now)
        due_at = await next_due(self._db)
        if not wait_s or (promoted and due_at is not None and due_at <= now):
            return 0.0
        moments = (self._upkeep_at, halted_until, due_at)
        due_s = [(moment - now).total_seconds() for moment in moments if moment is not None]
        return max(SHORTEST_WAIT_S, min(wait_s, *due_s))

    async def _hear_of_replies(self) -> None:
        """Read what every session replica reports anyway. Raises UnavailableError."""
        reports = await self._turns.all()
        try:
            if self._pressure.replied(reports, self._clock.monotonic()):
                log.warning("replies_are_slow")
        except Exception:  # another version's report, perhaps: figures are never worth the dialing
            log.exception("reports_not_read")

    async def _feed(self, now: datetime) -> float:
        """Claim what there is room for. Seconds after which to try again, if nothing happens before."""
        live = await under_way(self._db)
        plans, simulated = self._conditions.plans, self._conditions.simulated_network
        # Half of the places is left to campaigns, however many single calls there are.
        most_single = self._most_waiting // 2
        aside = live.aside(plans, simulated_network=simulated, most_single=most_single)
        waiting, under_way_now = live.waiting - aside, live.outbound + live.inbound - aside
        if waiting > self._most_waiting // 2:
            return UPKEEP_S  # a claim of many costs little more than one of a single lead
        crowded = live.crowded(most_single)
        able = [
            flow for flow in flows_of(await running_campaigns(self._db), live, plans) if flow.tenant_id not in crowded
        ]
        flows = [flow for flow in able if not self._halts.covers(flow)]
        if not flows:
            return UPKEEP_S
        sessions, reserved = await self._live.capacity()
        load = Load(
            sessions=sessions,
            sessions_taken=max(reserved, under_way_now),
            lines=self._lines,
            lines_taken=under_way_now,
            waiting=waiting,
            most_waiting=self._most_waiting,
            ringing=live.unanswered - aside,
            most_ringing=self._most_ringing,
        )
        free, scarce = room(load, self._pressure.share(self._clock.monotonic()))
        allotted = self._shares.allot(flows, free, scarce)
        unseen = False
        for flow in flows:
            quota = allotted[flow.campaign_id]
            if quota and not self._halts.covers(flow):
                try:
                    unseen |= await self._claim(flow, quota, now)
                except UnavailableError:
                    raise
                except Exception:  # the root of a campaign's turn: it must not hold up the others
                    log.exception("campaign_not_fed", campaign_id=flow.campaign_id, tenant_id=flow.tenant_id)
                    self._halts.faulty(flow, now)
        if unseen:
            return 0.0
        return SESSION_POLL_S if scarce == "sessions" else UPKEEP_S

    async def _claim(self, flow: Flow, quota: int, now: datetime) -> bool:
        """At most `quota` calls of a campaign. True: there is room left, and a lead not looked at."""
        claims = LeadClaims(self._db, flow.tenant_id)
        placed, look = 0, max(LEAST_LOOK, quota)
        try:
            for _ in range(MOST_BATCHES):
                choose = GuardedChoice(BatchChooser(self._conditions, quota - placed, now), now)
                claimed = await claims.claim(
                    flow.campaign_id, choose, owner=self._owner, limit=look, lease_s=LEAD_LEASE_S, now=now
                )
                placed += len(claimed.leads)
                _count(claimed)
                if claimed.halted is not None and claimed.halted != ENOUGH:
                    if claimed.halted != CALLS_AT_ONCE:  # which passes as soon as a call ends
                        self._halts.add(flow, claimed.halted, now)
                    return False
                if placed >= quota or claimed.looked_at < look:
                    return False
                look = min(2 * look, MOST_LOOK)
            return True
        finally:
            self._shares.refund(flow, quota - placed)
            if placed:
                self._fed()


def _count(claimed: Claimed) -> None:
    if claimed.leads:
        LEADS.labels("called").inc(len(claimed.leads))
    for reasons in (claimed.put_off, claimed.closed):
        for reason, count in reasons.items():
            LEADS.labels(reason).inc(count)
