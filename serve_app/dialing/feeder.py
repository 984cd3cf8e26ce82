"""Feeding the dialer: from leads that are due to calls that are decided on, for all campaigns of all tenants.

It holds no truth. Each claim is one transaction; what it does not finish, another feeder does, now or after a lease is
over. Two at once are harmless: a lead is claimed once, and both keep to what is under way. It runs when something has
happened (a call was placed or has ended) or when something is due, and now and then in case nobody told it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from serve_app.clock import Clock
from serve_app.dialing.batch_choice import CALLS_AT_ONCE, ENOUGH, BatchChooser, Conditions
from serve_app.dialing.caller_ids import DAY, CallerIds
from serve_app.dialing.campaign_clock import campaign_clock
from serve_app.dialing.fairness import FairShare, Flow
from serve_app.dialing.flows import flows_of, next_start, running_campaigns, under_way
from serve_app.dialing.network import network_is_simulated
from serve_app.dialing.number_rest import rest_tired_numbers
from serve_app.dialing.pacing import Backpressure, Load, most_waiting, room
from serve_app.dialing.plans import Plans, shipped_plans
from serve_app.dialing.rules import Jurisdictions, Reason, shipped
from serve_app.dialing.settling import settle_lead
from serve_app.dialing.single_calls import ringing_margin_s
from serve_app.errors import UnavailableError
from serve_app.metrics import LEADS
from serve_app.settings import Settings
from serve_app.store.campaign_upkeep import complete_finished, start_scheduled
from serve_app.store.db import Database
from serve_app.store.lead_claims import Claimed, LeadClaims
from serve_app.store.lead_upkeep import heal, next_due, promote, settle_ended
from serve_app.store.live import LiveState
from serve_app.store.numbers import Numbers

UPKEEP_S = 5.0
NUMBERS_S = 600.0
# A session that becomes free in another process tells nobody here.
SESSION_POLL_S = 1.0
SHORTEST_WAIT_S = 0.05
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 15.0
MOST_PROMOTED = 500
MOST_HEALED = 200
# A campaign, tenant or platform that must not dial now is asked again after this; the question is one small claim.
HALTED = timedelta(seconds=10)
# Nothing that a person does here mends the account at the network; a few calls try it, and are not counted.
ACCOUNT_HALTED = timedelta(seconds=30)
ACCOUNT = "/account"  # no tenant's name
# Ready leads are looked at in batches: as many as may be called, then more where they turn out not to be callable.
LEAST_LOOK = 8
MOST_LOOK = 128
MOST_BATCHES = 4
# Much longer than an attempt waits to be placed; a lead whose attempt lives is left alone by the upkeep anyway.
LEAD_LEASE_S = 300.0
SIMULATED_FROM = "+12025550100"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Halts:
    """What was halted, until when: by campaign, by tenant, or everything."""

    until: dict[str, datetime] = field(default_factory=dict)

    def add(self, flow: Flow, reason: str, now: datetime) -> None:
        concerns = next((known.concerns for known in Reason if known == reason), "campaign")
        key = {"tenant": flow.tenant_id, "platform": ""}.get(concerns, f"{flow.tenant_id}/{flow.campaign_id}")
        self.until[key] = now + HALTED
        log.info("campaign_halted", campaign_id=flow.campaign_id, reason=reason, concerns=concerns)

    def account(self, why: str, now: datetime) -> None:
        """The network refuses the account: an alarm, for every call of every campaign would be refused."""
        self.until[ACCOUNT] = now + ACCOUNT_HALTED
        log.error(
            "dialing_halted",
            reason=why,
            concerns="platform",
            remedy="check the application's key, the balance and the rights of the account at the network",
        )

    def ask_again(self) -> None:
        """Forget all that a person may have changed."""
        self.until = {key: until for key, until in self.until.items() if key == ACCOUNT}

    def covers(self, flow: Flow) -> bool:
        covering = {"", ACCOUNT, flow.tenant_id, f"{flow.tenant_id}/{flow.campaign_id}"}
        return not self.until.keys().isdisjoint(covering)

    def next(self, now: datetime) -> datetime | None:
        """Forget what is over; when the next one will be."""
        self.until = {key: until for key, until in self.until.items() if until > now}
        return min(self.until.values(), default=None)


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
        self._own_number = network.from_number or (SIMULATED_FROM if simulated else None)
        self._lines = network.channels
        self._most_ringing = settings.dialing.max_ringing
        self._most_waiting = most_waiting(network.calls_per_second)
        self._conditions = Conditions(
            law=law or shipped(),
            plans=plans or shipped_plans(),
            ringing_s=ringing_margin_s(settings),
            simulated_network=simulated,
            queue_timeout_s=settings.dialing.queue_timeout_s,
            clock=campaign_clock(settings, simulated_network=simulated),
        )
        self._shares = FairShare()
        self._halts = _Halts()
        self._woken = asyncio.Event()
        self._upkeep_at = self._numbers_at = datetime.min.replace(tzinfo=UTC)

    def wake(self) -> None:
        """A call was placed or has ended. Safe at any time, any often."""
        self._woken.set()

    def changed(self) -> None:
        """A person did something: started a campaign, lifted a switch, added leads. What was halted is asked again."""
        self._halts.ask_again()
        self._woken.set()

    async def run(self) -> None:
        """Feed until cancelled. Failures of SQL or Redis are logged and waited out."""
        backoff_s = FIRST_BACKOFF_S
        while True:
            self._woken.clear()
            try:
                wait_s = await self.step()
                backoff_s = FIRST_BACKOFF_S
            except UnavailableError as error:
                log.error("feeder_waits", error=str(error), retry_in_s=backoff_s)
                wait_s, backoff_s = backoff_s, min(backoff_s * 2, LONGEST_BACKOFF_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()

    async def step(self) -> float:
        """Do what is due now, in a bounded time; the seconds until something may be. Raises UnavailableError."""
        now = self._clock.now()
        if now >= self._upkeep_at:
            await self._look_after(now)
            starts_at = await next_start(self._db)
            regular = now + timedelta(seconds=UPKEEP_S)
            self._upkeep_at = regular if starts_at is None else min(starts_at, regular)
        due_at = await next_due(self._db)
        more = False
        if due_at is not None and due_at <= now:
            more = await promote(self._db, now, limit=MOST_PROMOTED) == MOST_PROMOTED
        if (refusal := self._pressure.take_refusal()) is not None:
            self._halts.account(refusal, now)
        halted_until = self._halts.next(now)
        wait_s = await self._feed(now)
        if more or not wait_s:
            return 0.0
        moments = (self._upkeep_at, halted_until, await next_due(self._db))
        due_s = [(moment - now).total_seconds() for moment in moments if moment is not None]
        return max(SHORTEST_WAIT_S, min(wait_s, *due_s))

    async def _look_after(self, now: datetime) -> None:
        """What a process left behind that died; campaigns that begin, or have come to their end."""
        await start_scheduled(self._db, now)
        await settle_ended(self._db, settle_lead, now, limit=MOST_HEALED)
        await heal(self._db, now, limit=MOST_HEALED)
        completed = await complete_finished(self._db, now)
        if completed:
            log.info("campaigns_completed", count=completed)
        if now >= self._numbers_at:
            await rest_tired_numbers(self._db, self._clock)
            self._numbers_at = now + timedelta(seconds=NUMBERS_S)

    async def _feed(self, now: datetime) -> float:
        """Claim what there is room for. Seconds after which to try again, if nothing happens before."""
        live = await under_way(self._db)
        aside = live.held_back(self._conditions.plans, simulated_network=self._conditions.simulated_network)
        waiting, under_way_now = live.waiting - aside, live.outbound + live.inbound - aside
        if waiting > self._most_waiting // 2:
            return UPKEEP_S  # a claim of many costs little more than one of a single lead
        running = await running_campaigns(self._db)
        flows = [flow for flow in flows_of(running, live, self._conditions.plans) if not self._halts.covers(flow)]
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
        pools = {one.campaign.id: one.campaign.number_pool for one in running}
        placed = 0
        unseen = False
        for flow in flows:
            quota = allotted[flow.campaign_id]
            if quota and not self._halts.covers(flow):
                done, more = await self._claim(flow, pools[flow.campaign_id], quota, now)
                self._shares.refund(flow, quota - done)
                placed += done
                unseen |= more
        if placed:
            self._fed()
        if unseen:
            return 0.0
        return SESSION_POLL_S if scarce == "sessions" else UPKEEP_S

    async def _claim(self, flow: Flow, pool: str | None, quota: int, now: datetime) -> tuple[int, bool]:
        """At most `quota` calls of a campaign. How many, and whether there is room left and a lead not looked at."""
        in_use = await Numbers(self._db, flow.tenant_id).in_use(pool=pool, since=now - DAY)
        caller_ids = CallerIds(in_use, now, fallback=self._own_number)
        claims = LeadClaims(self._db, flow.tenant_id)
        placed, look = 0, max(LEAST_LOOK, quota)
        for _ in range(MOST_BATCHES):
            choose = BatchChooser(self._conditions, caller_ids, quota - placed, now)
            claimed = await claims.claim(
                flow.campaign_id, choose, owner=self._owner, limit=look, lease_s=LEAD_LEASE_S, now=now
            )
            placed += len(claimed.leads)
            _count(claimed)
            if claimed.halted is not None and claimed.halted != ENOUGH:
                if claimed.halted != CALLS_AT_ONCE:  # which passes as soon as a call ends
                    self._halts.add(flow, claimed.halted, now)
                return placed, False
            if placed >= quota or claimed.looked_at < look:
                return placed, False
            look = min(2 * look, MOST_LOOK)
        return placed, True


def _count(claimed: Claimed) -> None:
    if claimed.leads:
        LEADS.labels("called").inc(len(claimed.leads))
    for reasons in (claimed.put_off, claimed.closed):
        for reason, count in reasons.items():
            LEADS.labels(reason).inc(count)
