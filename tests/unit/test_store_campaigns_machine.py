"""Any order of claims, crashes, ends, pauses, opt-outs: one live call per number, no lead lost, all counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from serve_app.clock import SystemClock
from serve_app.dialing.settling import settle_lead
from serve_app.store.attempts import Attempts
from serve_app.store.base import new_id
from serve_app.store.call_folding import CallFolding, CallState
from serve_app.store.calls import Calls
from serve_app.store.campaign_models import Lead
from serve_app.store.campaign_rows import CampaignRow, LeadRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.kill_switches import KillSwitches
from serve_app.store.lead_claims import LeadClaims, PlaceCall
from serve_app.store.lead_upkeep import heal, promote, settle_ended
from serve_app.store.leads import Leads
from serve_app.store.models import LIVE_ATTEMPT, Attempt
from serve_app.store.rows import AgentAttemptRow, AttemptRow, to_row
from tests.unit.campaign_support import OWN, START, campaign, number

pytest_plugins = ("tests.unit.store_fixtures",)

T = TypeVar("T")

NUMBERS = [number(i) for i in range(4)]
BEFORE_ANSWER = ("busy", "not_answered", "rejected", "failed")
AFTER_ANSWER = ("completed", "callee_hung_up", "session_lost", "silence")
VAGUE = "the network ended the call before it was answered"
LEASE_S = 600.0


class MovedClock(SystemClock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at


class CampaignMachine(RuleBasedStateMachine):
    """On one database for all examples: each has a tenant of its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.tenant = new_id()
        self.clock = MovedClock()
        self.db: Database = self.run(Database.connect(url))
        self.campaigns: list[CampaignRow] = []
        self.held: list[AgentAttemptRow] = []
        """Claims of all dialers, those that were lost too: a paused dialer goes on with them."""
        self.posts: Counter[str] = Counter()
        """Requests that would have been sent, by attempt."""
        self.opted_out: set[str] = set()

    def run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return self.runner.run(wait())

    @initialize()
    def two_campaigns_share_numbers(self) -> None:
        for name, numbers in (("spring", NUMBERS[:3]), ("summer", NUMBERS[1:])):
            self.campaigns.append(self.run(campaign(self.db, leads=numbers, name=name, tenant=self.tenant)))
        # The fixtures of a campaign use the real time; the machine's own begins after it.
        self.clock.at = max(START, max(row.created_at for row in self.campaigns)) + timedelta(seconds=1)

    def teardown(self) -> None:
        if self.campaigns:
            self.end_everything()
        self.run(self.db.aclose())
        self.runner.close()

    # --- what may happen

    @rule(which=st.integers(0, 1), limit=st.integers(1, 4))
    def feeder_claims(self, which: int, limit: int) -> None:
        def decide(lead: LeadRow, facts: Any, known: Any) -> PlaceCall:
            return PlaceCall(OWN, 1, self.clock.at + timedelta(seconds=60), "allowed")

        claims = LeadClaims(self.db, self.tenant, clock=self.clock)
        self.run(
            claims.claim(
                self.campaigns[which].id, decide, owner="feeder", limit=limit, lease_s=LEASE_S, now=self.clock.at
            )
        )

    @rule(lease_s=st.sampled_from([0, 60]))
    def dialer_claims(self, lease_s: int) -> None:
        attempts = Attempts(self.db, self.tenant, clock=self.clock)
        self.held += self.run(attempts.claim_intended("dialer", limit=4, lease_s=lease_s, now=self.clock.at))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def dialer_sends(self, data: st.DataObject) -> None:
        """Pass the fence, and with it send the one request; then the dialer may die at once."""
        claim = data.draw(st.sampled_from(self.held))
        attempts = Attempts(self.db, self.tenant, clock=self.clock)
        if self.run(attempts.fence_placing(claim.id, claim.epoch)):
            self.posts[claim.id] += 1
            assert claim.to_number not in self.opted_out
            fate = data.draw(st.sampled_from(["placed", "unknown", "dies", "refused"]))
            if fate == "placed":
                self.run(attempts.placed(claim.id, f"carrier-{claim.id}", None))
            elif fate == "unknown":
                self.run(attempts.unknown(claim.id, "no answer"))
            elif fate == "refused":
                assert self.run(attempts.release(claim.id, claim.epoch, self.clock.at))
                self.posts[claim.id] -= 1

    @rule(data=st.data(), settled=st.booleans(), vague=st.booleans())
    def call_ends(self, data: st.DataObject, settled: bool, vague: bool) -> None:
        """`settled` False: by a process without a verdict, or one that died right after."""
        live = [a for a in self.attempts() if a.status in ("placing", "placed", "unknown")]
        if not live:
            return
        attempt = data.draw(st.sampled_from(live))
        answered = data.draw(st.booleans())
        outcome = data.draw(st.sampled_from(AFTER_ANSWER if answered else BEFORE_ANSWER))
        if answered:
            self.run(Calls(self.db, self.tenant, clock=self.clock).answered(attempt.call_id, self.clock.at))
            reported = data.draw(st.sampled_from([None, "success", "callback", "wrong_number", "machine"]))
            if reported is not None:
                repository = Attempts(self.db, self.tenant, clock=self.clock)
                asked = self.clock.at + timedelta(hours=30)
                self.run(repository.report(attempt.call_id, reported, callback_at=asked))
                if reported == "wrong_number" and outcome != "opted_out":
                    self.opted_out.add(attempt.to_number) if settled else None
        self.finish(attempt, outcome, settled=settled, detail=VAGUE if vague and not answered else None)

    @rule(data=st.data())
    def news_comes_late(self, data: st.DataObject) -> None:
        ended = [a for a in self.attempts() if a.status == "ended" and a.detail == VAGUE]
        if ended:
            attempt = data.draw(st.sampled_from(ended))
            assert attempt.ended_at is not None
            state = CallState("busy", "late", attempt.ended_at, None)
            folding = CallFolding(self.db, self.tenant, clock=self.clock)
            self.run(folding.fold(attempt.call_id, None, lambda *_: state, settle_lead))

    @rule(data=st.data())
    def callee_opts_out(self, data: st.DataObject) -> None:
        live = [a for a in self.attempts() if a.status == "placed"]
        if live:
            attempt = data.draw(st.sampled_from(live))
            listing = DoNotCall(self.db, self.tenant, clock=self.clock)
            self.run(listing.opt_out(attempt.call_id, attempt.to_number, "phrase", "stop"))
            self.opted_out.add(attempt.to_number)

    @rule(which=st.integers(0, 3))
    def person_lists_a_number(self, which: int) -> None:
        if len(self.opted_out) < 2:
            self.run(DoNotCall(self.db, self.tenant, clock=self.clock).add(NUMBERS[which], "by letter"))
            self.opted_out.add(NUMBERS[which])

    @rule(which=st.integers(0, 1), step=st.sampled_from(["pause", "resume"]))
    def person_pauses_or_resumes(self, which: int, step: str) -> None:
        campaigns = Campaigns(self.db, self.tenant, clock=self.clock)
        row = self.run(campaigns.get(self.campaigns[which].id))
        assert row is not None
        if row.status == {"pause": "running", "resume": "paused"}[step]:
            self.run(getattr(campaigns, step)(row.id))

    @rule(on=st.booleans(), which=st.integers(0, 3))
    def person_turns_a_switch(self, on: bool, which: int) -> None:
        switches = KillSwitches(self.db, self.tenant, clock=self.clock)
        if on:
            self.run(switches.on("number", NUMBERS[which], reason="complaint", by="tester"))
        else:
            self.run(switches.off("number", NUMBERS[which], by="tester"))

    @rule(data=st.data())
    def person_deletes_or_reopens_a_lead(self, data: st.DataObject) -> None:
        lead = data.draw(st.sampled_from(self.leads()))
        leads = Leads(self.db, self.tenant, clock=self.clock)
        if lead.state in ("done", "exhausted", "barred"):
            self.run(leads.reopen(lead.campaign_id, lead_id=lead.id))
        elif data.draw(st.integers(0, 4)) == 0:
            self.run(leads.delete(lead.id))

    @rule()
    def dialer_ends_what_is_barred(self) -> None:
        for attempt in self.run(Attempts(self.db, self.tenant, clock=self.clock).barred(limit=1000)):
            self.finish(attempt, "not_allowed", settled=True, unsent_only=True)

    @rule(minutes=st.sampled_from([1, 20, 300, 3000]))
    def time_passes(self, minutes: int) -> None:
        self.clock.at += timedelta(minutes=minutes)

    @rule()
    def upkeep(self) -> None:
        self.run(settle_ended(self.db, settle_lead, self.clock.at, limit=1000))
        self.run(heal(self.db, self.clock.at, limit=1000))
        self.run(promote(self.db, self.clock.at, limit=1000))

    # --- what must hold, always

    @invariant()
    def at_most_one_live_attempt_per_number(self) -> None:
        live = Counter(a.to_number for a in self.attempts() if a.status in LIVE_ATTEMPT)
        assert all(count == 1 for count in live.values()), live

    @invariant()
    def at_most_one_request_per_attempt(self) -> None:
        assert all(count <= 1 for count in self.posts.values()), self.posts

    @invariant()
    def a_leased_lead_has_an_attempt_to_come_back_from(self) -> None:
        waiting = {
            (a.lead_id, a.number_in_lead)
            for a in self.attempts()
            if a.status in LIVE_ATTEMPT or (a.status == "ended" and a.settled_at is None)
        }
        for lead in self.leads():
            if lead.state == "leased":
                assert (lead.id, lead.epoch) in waiting
                assert lead.lease_until is not None

    @invariant()
    def attempts_are_numbered_and_counted(self) -> None:
        attempts = self.attempts()
        for lead in self.leads():
            mine = [a for a in attempts if a.lead_id == lead.id]
            assert [a.number_in_lead for a in mine] == list(range(1, lead.epoch + 1))
            if all(a.settled_at is not None for a in mine):
                assert lead.attempts == sum(a.result != "not_placed" for a in mine)

    def end_everything(self) -> None:
        """All processes die, their leases run out, others end what lives: no lead is left in anybody's hands."""
        self.clock.at += timedelta(days=1)
        self.dialer_ends_what_is_barred()
        for attempt in self.attempts():
            if attempt.status in LIVE_ATTEMPT:
                self.finish(attempt, "no_capacity" if attempt.status == "intended" else "failed", settled=False)
        self.upkeep()
        self.upkeep()
        self.clock.at += timedelta(days=60)
        for which in (0, 1):  # leads that are due wait for as long as their campaign is paused
            self.person_pauses_or_resumes(which, "resume")
        self.upkeep()
        listed = {n for n in NUMBERS if self.run(DoNotCall(self.db, self.tenant).contains(n))}
        assert self.opted_out <= listed
        for lead in self.leads():
            assert lead.state in ("ready", "done", "exhausted", "barred", "deleted"), lead
        assert all(a.status == "ended" and a.settled_at is not None for a in self.attempts())
        self.attempts_are_numbered_and_counted()

    # --- helpers

    def finish(
        self, attempt: AttemptRow, outcome: str, *, settled: bool, detail: str | None = None, unsent_only: bool = False
    ) -> None:
        calls = Calls(self.db, self.tenant, clock=self.clock)
        self.run(
            calls.finish(
                attempt.call_id,
                status="failed",
                outcome=outcome,
                detail=detail,
                started_at=None,
                ended_at=self.clock.at,
                duration_s=None,
                sample_rate_hz=None,
                unsent_only=unsent_only,
                verdict=settle_lead if settled else None,
            )
        )

    def attempts(self) -> list[AttemptRow]:
        return self.run(self._all(Attempt, AttemptRow))

    def leads(self) -> list[LeadRow]:
        return self.run(self._all(Lead, LeadRow))

    async def _all(self, model: Any, row: type[T]) -> list[T]:
        async with self.db.session() as session:
            mine = select(model).where(model.tenant_id == self.tenant).order_by(model.id)
            return [to_row(row, found) for found in await session.scalars(mine)]


def test_any_order_of_events(database_url: str) -> None:
    steps = settings(max_examples=25 if "sqlite" in database_url else 10, stateful_step_count=30, deadline=None)
    make: Any = partial(CampaignMachine, database_url)
    run_state_machine_as_test(make, settings=steps)
