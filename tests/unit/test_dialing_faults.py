"""One row that nobody can make sense of stops neither the dialer nor the feeder, nor anybody else's calls."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from load_tests.crash_points.carrier import ContractBroken
from load_tests.crash_points.rounds import play
from serve_app.dialing import dialer as dialer_module
from serve_app.dialing import lead_choice, upkeep
from serve_app.dialing.feeder import Feeder
from serve_app.dialing.guarded_choice import ASIDE, UNDECIDED
from serve_app.dialing.halts import FAULTY
from serve_app.dialing.rules import Decision
from serve_app.dialing.single_calls import SingleCalls
from serve_app.store.attempts import Attempts
from serve_app.store.lead_claims import Claimed, LeadClaims
from serve_app.store.settlement import EndedAttempt, LeadStep
from tests.unit.api_support import TO
from tests.unit.campaign_support import TENANT, end, number
from tests.unit.test_dialer import Bench
from tests.unit.test_feeder import Floor, numbers

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures", "tests.unit.test_dialer")


@pytest.fixture(name="floor")
async def fixture_floor(db: Any, live: Any) -> Floor:
    floor = Floor(db, live)
    await floor.sessions(50)
    return floor


async def feed(feeder: Feeder) -> None:
    while await feeder.step() == 0:
        pass


async def test_a_lead_that_cannot_be_decided_on_is_put_off_alone(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = await floor.campaign("spring", numbers(5))
    decide = lead_choice.decide

    def choke(candidate: Any, *rest: Any) -> Decision:
        if candidate.number == number(2):
            raise ZeroDivisionError
        return decide(candidate, *rest)

    monkeypatch.setattr(lead_choice, "decide", choke)
    feeder = floor.feeder()
    await feed(feeder)
    assert sorted(a.to_number for a in await floor.attempts(row)) == [n for n in numbers(5) if n != number(2)]
    (left,) = [lead for lead in await floor.leads(row) if lead.state == "deferred"]
    assert (left.last_reason, left.next_at) == (UNDECIDED, floor.clock.time + ASIDE)
    told = capsys.readouterr().out
    assert "lead_not_decided" in told and left.id in told
    monkeypatch.setattr(lead_choice, "decide", decide)
    floor.move(minutes=15)
    await feed(feeder)
    assert len(await floor.attempts(row)) == 5


@pytest.mark.parametrize("where", ["decide", "claim"])
async def test_a_campaign_that_nobody_can_make_sense_of_holds_up_no_other(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    bad = await floor.campaign("spring", numbers(40), weight=5)
    good = await floor.campaign("spring", numbers(5, 100), tenant="other")
    decide, claim, claims = lead_choice.decide, LeadClaims.claim, 0

    def choke(candidate: Any, *rest: Any) -> Decision:
        if candidate.number in numbers(40):
            raise ZeroDivisionError
        return decide(candidate, *rest)

    async def refuse(self: LeadClaims, campaign_id: str, *rest: Any, **named: Any) -> Claimed:
        nonlocal claims
        claims += campaign_id == bad.id
        if campaign_id == bad.id and where == "claim":
            raise ZeroDivisionError
        return await claim(self, campaign_id, *rest, **named)

    monkeypatch.setattr(LeadClaims, "claim", refuse)
    if where == "decide":
        monkeypatch.setattr(lead_choice, "decide", choke)
    feeder = floor.feeder()
    for _ in range(4):
        await feeder.step()
        feeder.changed(TENANT)
    assert claims == 1, "it is halted, and nothing that people do here mends it"
    assert [len(await floor.attempts(row)) for row in (bad, good)] == [0, 5]
    floor.move(seconds=FAULTY.total_seconds())
    await feeder.step()
    assert claims == 2


async def test_an_attempt_that_cannot_be_settled_keeps_no_other_from_it(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await floor.campaign("spring", numbers(4))
    feeder = floor.feeder()
    await feed(feeder)
    attempts = await floor.attempts(row)
    for attempt in attempts:
        await end(floor.db, attempt.call_id, "no_capacity", at=floor.clock.now(), settled=False)
    verdict, asked = upkeep.settle_lead, []

    def choke(ended: EndedAttempt) -> LeadStep:
        asked.append(ended.attempt.id)
        if ended.attempt.id == attempts[1].id:
            raise ZeroDivisionError
        return verdict(ended)

    monkeypatch.setattr(upkeep, "settle_lead", choke)
    for _ in range(3):
        floor.move(seconds=6)
        await feeder.step()
    assert await floor.states(row) == {"deferred": 3, "leased": 1}
    assert asked.count(attempts[1].id) == 2, "with the others, alone, and then not for a while"
    monkeypatch.setattr(upkeep, "settle_lead", verdict)
    floor.clock.time += ASIDE + timedelta(seconds=6)
    await feeder.step()
    assert all(attempt.settled_at for attempt in await floor.attempts(row) if attempt.id in {a.id for a in attempts})


async def test_a_step_of_the_upkeep_that_fails_stops_neither_the_others_nor_dialing(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await floor.campaign("spring", numbers(3))

    async def fail(*_: Any, **__: Any) -> int:
        raise ZeroDivisionError

    for step in ("start_scheduled", "heal", "rest_tired_numbers"):
        monkeypatch.setattr(upkeep, step, fail)
    feeder = floor.feeder()
    await feeder.step()
    assert await floor.work_off(row, "completed", talked_s=60) == 3
    floor.move(seconds=6)
    await feeder.step()
    assert await floor.status(row) == "completed"


async def test_a_tenant_whose_attempts_cannot_be_claimed_or_ended_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = dialer_module.intended_work, 0
    claim = Attempts.claim_intended

    async def sometimes(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise ZeroDivisionError
        return await look(*arguments)

    async def refuse(self: Attempts, *arguments: Any, **named: Any) -> Any:
        if self.tenant_id == "a-bad-one":
            raise ZeroDivisionError
        return await claim(self, *arguments, **named)

    monkeypatch.setattr(dialer_module, "intended_work", sometimes)
    monkeypatch.setattr(dialer_module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(Attempts, "claim_intended", refuse)
    await bench.call(TO, tenant="a-bad-one")
    _, attempt = await bench.call()
    async with bench.dialing():
        await bench.until_status(attempt.id, "placed")


async def test_a_call_that_cannot_be_decided_on_comes_to_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> Decision:
        raise ZeroDivisionError

    monkeypatch.setattr(SingleCalls, "decide", fail)
    call, attempt = await bench.call(wait_s=-dialer_module.LATE_S - 1)
    async with bench.dialing():
        await bench.until_status(attempt.id, "ended")
    row = await bench.calls.get(call.id)
    assert row is not None and row.outcome == "no_capacity"


def test_the_crash_points_find_a_fault_that_is_only_logged(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> Claimed:
        raise ZeroDivisionError

    monkeypatch.setattr(LeadClaims, "claim", refuse)
    with pytest.raises(ContractBroken, match="campaign_not_fed"):
        play(sqlite_template, tmp_path, 1, leads=1)
