"""The number that calls: the one the lead knows, one of the lead's area, the least used; caps, warm-up and rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta

from serve_app.dialing.caller_ids import CallerIds, allowance, tired
from serve_app.dialing.lead_choice import CallerNumber
from serve_app.store.campaign_rows import LeadRow, NumberRow
from serve_app.store.numbers import NumberHealth, NumberUse
from tests.unit.campaign_support import START

JERSEY, DENVER, LONDON = "+12015550100", "+13035550100", "+442071234500"


def own(e164: str, calls: int = 0, **values: object) -> NumberUse:
    row = NumberRow(
        id=e164, e164=e164, pool="default", region=None, attestation=None, agent_name=None, daily_cap=75,
        warmup_from=None, state="active", cool_until=None, state_reason=None, created_at=START, updated_at=START,
    )  # fmt: skip
    return NumberUse(replace(row, **values), calls)  # type: ignore[arg-type]


def lead(number: str = "+12015550123", *, caller_id: str | None = None, region: str | None = None) -> LeadRow:
    return LeadRow(
        id="lead", tenant_id="acme", campaign_id="c", number=number, first_name=None, last_name=None, email=None,
        zones=None, region=region, priority=5, high_value=False, tags=[], custom_fields={}, state="ready",
        next_at=START, queue_at=START, attempts=0, epoch=0, lease_owner=None, lease_until=None, last_result=None,
        last_reason=None, last_called_at=None, caller_id=caller_id, import_id=None, consent_at=None, scrubbed_at=None,
        created_at=START, updated_at=START,
    )  # fmt: skip


def ids(*pool: NumberUse, now: datetime = START, fallback: str | None = None) -> CallerIds:
    return CallerIds(pool, now, fallback=fallback)


def test_sticky_then_local_then_least_used() -> None:
    pool = (own(JERSEY, 60), own(DENVER, 10), own(LONDON, 5, region="US-CO"))
    assert ids(*pool).pick(lead(caller_id=DENVER)) == CallerNumber(DENVER)
    assert ids(*pool).pick(lead()) == CallerNumber(JERSEY), "of the lead's area code, however much it was used"
    assert ids(*pool).pick(lead("+17195550123", region="US-CO")) == CallerNumber(LONDON)
    assert ids(*pool[:2]).pick(lead("+17195550123")) == CallerNumber(DENVER)
    # Used as a share of what it may: 10 of 75 is less than 5 of 20.
    assert ids(pool[1], own(LONDON, 5, daily_cap=20)).pick(lead("+17195550123")) == CallerNumber(DENVER)


def test_a_batch_keeps_to_the_daily_caps() -> None:
    numbers, placed = ids(own(JERSEY, 70), own(DENVER, 74)), Counter[str]()
    while (picked := numbers.pick(lead(caller_id=JERSEY)).number) is not None:
        numbers.take(picked)
        placed[picked] += 1
    assert placed == {JERSEY: 5, DENVER: 1}
    assert numbers.pick(lead()) == CallerNumber(None, START + timedelta(hours=1))


def test_a_number_that_rests_or_is_retired_does_not_call() -> None:
    rested = START + timedelta(days=3)
    pool = (own(JERSEY, state="retired"), own(DENVER, state="cooling", cool_until=rested))
    assert ids(*pool).pick(lead(caller_id=JERSEY)) == CallerNumber(None, rested)
    assert ids(*pool, now=rested).pick(lead(caller_id=JERSEY)) == CallerNumber(DENVER)
    assert ids(own(JERSEY, state="retired")).pick(lead()) == CallerNumber(None, None)


def test_a_new_number_calls_little_at_first() -> None:
    fresh = own(JERSEY, warmup_from=START).number
    by_day = [allowance(fresh, START + timedelta(days=day)) for day in range(15)]
    assert (by_day[0], by_day[14]) == (15, 75) and by_day == sorted(by_day)
    assert allowance(replace(fresh, daily_cap=1), START) == 1
    assert allowance(replace(fresh, daily_cap=0), START) == 0


def test_the_account_s_own_number_is_for_tenants_that_have_none() -> None:
    assert ids(fallback=LONDON).pick(lead()) == CallerNumber(LONDON)
    assert ids().pick(lead()) == CallerNumber(None, None)
    assert ids(own(JERSEY, 75), fallback=LONDON).pick(lead()).number is None, (
        "its cap is not got round by another number"
    )


def test_numbers_that_people_do_not_answer_rest() -> None:
    pool = [
        NumberHealth("good", 100, answered=40, short=4),
        NumberHealth("labelled", 100, answered=10, short=1),
        NumberHealth("hung-up-on", 100, answered=38, short=30),
        NumberHealth("unknown", 20, answered=0, short=0),
    ]
    assert [rest.e164 for rest in tired(pool, START)] == ["labelled", "hung-up-on"]
    assert tired([NumberHealth("only", 100, answered=5, short=5)], START) == []
    assert tired([], START) == []
