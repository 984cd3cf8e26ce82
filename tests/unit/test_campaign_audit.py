"""What the demonstration of a campaign holds against what the network saw."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from serve_app.cli.campaign_audit import (
    NetworkCall,
    double_dials,
    illegal_minutes,
    is_legal,
    network_calls,
    unknown_calls,
)
from serve_app.cli.campaign_demo_file import DemoFile, surroundings
from serve_app.dialing.campaign_clock import CampaignClock
from serve_app.dialing.imports.phone import read_number
from serve_app.dialing.plans import shipped_plans
from serve_app.dialing.rules import CallingRules, Candidate, place_of, shipped
from serve_app.dialing.rules.engine import _Calendar
from serve_app.settings import load_settings
from serve_app.simulators.callee import CalleeBehaviour, Outcome
from serve_app.simulators.network_conduct import NetworkConduct
from serve_app.store.campaign_rows import LeadRow

START = datetime(2026, 10, 19, 13, tzinfo=UTC)  # nine in New York
TIME = CampaignClock(START, 60).of(START)
RULES = CallingRules.model_validate({"countries": ["US"], "purpose": "informational"})


def call(number: str, at_s: float, ended_s: float | None = None, **changes: Any) -> NetworkCall:
    values = {
        "uuid": f"{number}-{at_s}",
        "number": number,
        "answer_url": f"https://x/{number}/{at_s}",
        "created_at": START + timedelta(seconds=at_s),
        "answered_at": None,
        "ended_at": None if ended_s is None else START + timedelta(seconds=ended_s),
    }
    return NetworkCall(**(values | changes))


def lead(number: str, zones: list[str] | None = None, region: str | None = None) -> LeadRow:
    values: dict[str, Any] = dict.fromkeys(LeadRow.__dataclass_fields__)
    return LeadRow(**(values | {"number": number, "zones": zones, "region": region}))


def test_calls_one_after_the_other_are_no_double_dials() -> None:
    assert double_dials([call("+1", 0, 2), call("+1", 2, 3), call("+2", 1, 9), call("+1", 3.5)]) == 0


@pytest.mark.parametrize(
    "calls",
    [
        [call("+1", 0, 2), call("+1", 1.9, 3)],
        [call("+1", 0), call("+1", 50, 51)],  # the first one never ended
        [call("+1", 50, 60), call("+1", 0, 51)],
        [call("+1", 0, 1, answer_url="x"), call("+1", 5, 6, answer_url="x")],
    ],
)
def test_a_double_dial_is_found(calls: list[NetworkCall]) -> None:
    assert double_dials(calls) == 1


def test_each_call_within_a_long_one_counts() -> None:
    assert double_dials([call("+1", 0, 100), call("+1", 1, 2), call("+1", 50, 51)]) == 2


def test_calls_that_nobody_asked_for_are_found() -> None:
    calls = [call("+1", 0), call("+2", 0)]
    assert unknown_calls(calls, {calls[0].uuid}) == 1


def test_minutes_in_which_a_phone_must_not_ring_are_counted() -> None:
    leads = {number: lead(number) for number in ("+12125550100", "+12145550100")}
    rings = [
        call("+12125550100", 0, 0.5),  # nine in New York
        call("+12125550100", -0.01, 0),  # a second before
        call("+12145550100", 10, 12),  # ten past eight in Dallas, for two minutes
        call("+12145550100", 60, 61),  # nine in Dallas
        call("+12125550100", 599, 601),  # a minute before seven in the evening, until one after
        call("+13105550100", 0, 0.1),  # nobody knows this number
    ]
    found = [illegal_minutes([ring], leads, RULES, shipped(), TIME) for ring in rings]
    assert found == [0, 1, 3, 0, 2, 2]
    answered = replace(rings[4], answered_at=START + timedelta(seconds=599.5))
    assert illegal_minutes([answered], leads, RULES, shipped(), TIME) == 0


def test_the_wall_clock_agrees_with_the_rules_every_quarter_of_an_hour_of_a_week() -> None:
    """The audit is a second opinion: it must be one on the same law."""
    law = shipped()
    leads = [lead("+12125550100"), lead("+15025550100"), lead("+17095550100"), lead("+18005550100"),
             lead("+17095550100", ["America/St_Johns"]), lead("+61255500000"), lead("+33199000000"),
             lead("+12125550100", ["Europe/Paris"], "US-HI")]  # fmt: skip
    rules = CallingRules.model_validate({"countries": ["US"], "hours": {"mon-sat": ["08:30-12:00", "13:00-21:30"]}})
    facts: Any = type("Facts", (), {"rules": rules, "law": law, "ringing_s": 0})()
    open_ones = 0
    for one in leads:
        place = place_of(one.number)
        regions = place.regions | ({one.region} if one.region else frozenset())
        calendar = _Calendar(Candidate(one.number, tuple(one.zones or ()), one.region), place, regions, facts)
        for quarter in range(7 * 96):
            moment = START + timedelta(minutes=15 * quarter)
            by_rules = calendar.earliest(moment) == moment
            assert is_legal(one, rules, law, moment) == by_rules, (one.number, moment)
            open_ones += by_rules
    assert open_ones > 500


def test_the_networks_record_is_read_and_inbound_calls_are_not_ours() -> None:
    shown = {
        "uuid": "u", "to": "12125550100", "answer_url": "https://x", "direction": "outbound",
        "created_at": "2026-10-19T13:00:00.250Z", "answered_at": None, "ended_at": "2026-10-19T13:00:01.000Z",
    }  # fmt: skip
    (read,) = network_calls([shown, shown | {"direction": "inbound"}])
    assert (read.number, read.created_at) == ("+12125550100", START + timedelta(milliseconds=250))
    assert read.rang_until == START + timedelta(seconds=1)


def test_the_shipped_demonstration_is_as_it_says() -> None:
    demo = DemoFile.shipped()
    rows = demo.leads.read_text(encoding="utf-8").splitlines()[1:]
    numbers = [read_number(row.split(",")[0], demo.region)[0] for row in rows]
    known = {number for number in numbers if number is not None}
    assert len(known) == demo.expect.accepted
    assert len(rows) - len(known) == demo.expect.refused
    assert known >= set(demo.callees) | set(demo.do_not_call)
    zones = {zone for number in known for zone in place_of(number).zones}
    assert len(zones) > 10
    assert demo.clock.told(demo.clock.begins).strftime("%A %H:%M") == "Monday 09:00"
    assert shipped_plans().of(demo.plan) is not None
    for behaviour in demo.callees.values():
        CalleeBehaviour.model_validate(behaviour)
    conduct = NetworkConduct.model_validate(demo.network)
    assert conduct.speed == demo.clock.speed
    firsts = [conduct.luck(number[1:], 1) for number in sorted(known)]
    assert sum(luck.loses_response() for luck in firsts) >= 2
    outcomes = {behaviour.outcome for luck in firsts if (behaviour := luck.behaviour()) is not None}
    assert outcomes == set(get_args(Outcome))


def test_a_demonstration_leaves_the_callers_configuration_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not a provider that costs money, not a phone that rings, not a database that somebody needs."""
    for name in ("APPLICATION_ID", "PRIVATE_KEY", "SIGNATURE_SECRET"):
        monkeypatch.setenv(f"VONAGE_{name}", "x")
    monkeypatch.setenv("VONAGE_FROM_NUMBER", "+12025550100")
    for name in ("DEEPGRAM", "GROQ", "CARTESIA"):
        monkeypatch.setenv(f"{name}_API_KEY", "x")
    monkeypatch.setenv("DATABASE_URL", "postgresql+asyncpg://u:p@h/d")
    monkeypatch.setenv("PARLEY_REDIS__URL", "redis://h")
    before = load_settings()
    with surroundings(DemoFile.shipped(), tmp_path):
        settings = load_settings()
        assert settings.simulated == {"deepgram", "groq", "cartesia", "vonage"}
        assert (settings.database.url, settings.redis.url, settings.objects.url) == (None, None, None)
        assert settings.data_dir == tmp_path and settings.dialing.simulated_clock is not None
    assert load_settings() == before and before.simulated == frozenset()
