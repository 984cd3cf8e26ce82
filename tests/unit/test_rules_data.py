"""What people write: a campaign's rules, and the law as data. What is malformed is an error that names the field."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.dialing.rules import CallingRules, shipped
from serve_app.dialing.rules.hours import DAYS, parse_week, parse_window
from serve_app.dialing.rules.jurisdictions import DEFAULT, load
from serve_app.errors import SettingsError
from serve_app.paths import configs_dir

LAW = configs_dir() / "calling_rules"


# --- hours ---


def test_hours_are_minutes_of_local_days() -> None:
    week = parse_week({"mon-fri": ["14:00-20:00", "10:00-13:00"], "sat": ["21:00-02:00"], "sun": []})
    assert week[0] == week[4] == ((600, 780), (840, 1200))
    assert week[5] == ((1260, 1560),)
    assert week[6] == ()
    assert parse_week({"tue": ["09:00-12:00", "11:00-13:00"]})[1] == ((540, 780),)
    assert parse_window("00:00-24:00") == (0, 1440)


@given(st.integers(0, 1439), st.integers(1, 1440))
def test_every_span_of_up_to_a_day_can_be_written(start: int, length: int) -> None:
    end = (start + length) % 1440
    text = f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
    if length == 1440:
        with pytest.raises(ValueError, match="whole day"):
            parse_window(text)
    else:
        assert parse_window(text) == (start, start + length)


@pytest.mark.parametrize(
    ("hours", "named"),
    [
        ({"mon": ["9:00-17:00"]}, "'9:00-17:00'"),
        ({"mon": ["09:00-25:00"]}, "'09:00-25:00'"),
        ({"mon": ["09:00 - 17:00"]}, "'09:00 - 17:00'"),
        ({"mon": ["09:00-17:60"]}, "'09:00-17:60'"),
        ({"mon": ["24:00-05:00"]}, "'24:00-05:00'"),
        ({"mon": ["٠٩:00-17:00"]}, "is no span"),
        ({"mon": [""]}, "is no span"),
        ({"monday": ["09:00-17:00"]}, "'monday'"),
        ({"fri-mon": ["09:00-17:00"]}, "'fri-mon'"),
        ({"mon-fri": ["09:00-17:00"], "wed": ["10:00-11:00"]}, "wed"),
    ],
)
def test_malformed_hours_are_an_error_that_names_the_entry(hours: dict[str, list[str]], named: str) -> None:
    with pytest.raises(ValueError, match=r"write|give") as error:
        parse_week(hours)
    assert named in str(error.value)


# --- a campaign's rules ---


def test_rules_survive_being_stored() -> None:
    made = CallingRules.model_validate({"countries": ["US"], "hours": {"mon-sun": ["21:00-02:00"]}, "max_per_7d": None})
    again = CallingRules.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.week == made.week == (((1260, 1560),),) * 7
    assert made.rolling_caps == ((2, 24.0),)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"countries": []}, "countries"),
        ({"countries": ["USA"]}, "countries"),
        ({"countries": None}, "countries"),
        ({"hours": {"mon": ["always"]}}, "hours"),
        ({"hours": {}}, "hours"),
        ({"hours": {"mon": []}}, "hours"),
        ({"hours": {"mon": "09:00-17:00"}}, "hours"),
        ({"min_hours_between_calls": -1}, "min_hours_between_calls"),
        ({"max_per_24h": 0}, "max_per_24h"),
        ({"max_per_7d": 1000}, "max_per_7d"),
        ({"purpose": "sales"}, "purpose"),
        ({"consent": {"required": "none"}}, "consent"),
        ({"consent": {"required": "none", "reason": "  "}}, "consent"),
        ({"consent": {"required": "never"}}, "consent"),
        ({"scrub_max_age_days": 0}, "scrub_max_age_days"),
        ({"timezone": "America/New_York"}, "timezone"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_an_error_that_names_it(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        CallingRules.model_validate({"countries": ["US"]} | change)
    assert {found["loc"][0] for found in error.value.errors()} == {field}


def test_nobody_is_called_by_omission() -> None:
    with pytest.raises(ValidationError, match="countries"):
        CallingRules.model_validate({})


# --- the law ---


def test_the_law_that_is_shipped_covers_the_specification() -> None:
    law = shipped()
    states = ["AL", "CT", "FL", "KY", "LA", "MA", "MD", "MI", "MN", "MS", "NM", "NV", "OK", "RI", "WA"]
    for region in ["US", "CA", "AU", "GB", "FR", *(f"US-{state}" for state in states)]:
        (found,) = [one for one in law.of(frozenset({region, "US-DC"} if region == "US" else {region}))
                    if one.region == region]  # fmt: skip
        version = found.rules(date(2026, 11, 21))
        assert version is not None and version.source


def test_no_state_is_more_generous_than_its_country() -> None:
    """It would not matter, for both apply; but such an entry is a mistake of whoever wrote it."""
    law, today = shipped(), date(2026, 11, 21)
    checked = 0
    for jurisdiction in law.of(frozenset({"US"})):
        if jurisdiction.region == "US":
            continue
        week, federal = jurisdiction.week(today), parse_week({"mon-sun": ["08:00-21:00"]})
        assert week is not None
        checked += 1
        for day in range(len(DAYS)):
            assert all(federal[day][0][0] <= start and end <= federal[day][0][1] for start, end in week[day])
    assert checked >= 20


def test_a_country_without_rules_has_the_default_and_a_state_without_rules_has_its_countrys() -> None:
    law = shipped()
    assert [one.region for one in law.of(frozenset({"NP"}))] == [DEFAULT]
    assert [one.region for one in law.of(frozenset())] == [DEFAULT]
    assert [one.region for one in law.of(frozenset({"US-NY"}))] == ["US"]
    assert [one.region for one in law.of(frozenset({"US-FL"}))] == ["US", "US-FL"]
    assert [one.region for one in law.of(frozenset({"CA-NL", "JM"}))] == ["CA", DEFAULT]
    assert [one.region for one in law.of(frozenset({"GG"}))] == ["GG"]
    assert {"US-FL", "US-RI", "US"} <= {one.region for one in law.of(frozenset({"US"}))}


GOOD: dict[str, Any] = {
    "region": "default",
    "name": "everywhere",
    "versions": [
        {
            "effective_from": date(2020, 1, 1),
            "source": "a test of the loader",
            "hours": {"mon-sun": ["09:00-18:00"]},
            "consent": {"marketing": ["written"], "informational": ["express"]},
        }
    ],
}


def _place(**changes: Any) -> dict[str, Any]:
    version = GOOD["versions"][0] | changes.pop("version", {})
    return GOOD | {"versions": [version]} | changes


@pytest.mark.parametrize(
    ("places", "named"),
    [
        ([_place(version={"hours": {"mon": ["9-5"]}})], "hours"),
        ([_place(version={"source": ""})], "source"),
        ([_place(version={"effective_from": "soon"})], "effective_from"),
        ([_place(version={"hours_of_day": {}})], "hours_of_day"),
        ([_place(version={"consent": {"marketing": ["written"]}})], "consent"),
        ([_place(version={"caps": [{"calls": 0, "hours": 24}]})], "caps"),
        ([_place(region="Florida")], "region"),
        ([_place(versions=[])], "versions"),
        ([_place(versions=GOOD["versions"] * 2)], "versions"),
        ([_place(), _place()], "default has rules twice"),
        ([_place(), _place(region="US", shared_by=["US"])], "US has rules twice"),
        ([_place(), _place(region="AC", version={"holidays": "closed"})], "AC is closed on holidays"),
        ([_place(region="US")], "default"),
        ("nothing", "list of places"),
    ],
)
def test_faulty_law_stops_the_start_and_says_what_is_wrong(tmp_path: Path, places: Any, named: str) -> None:
    (tmp_path / "law.yaml").write_text(yaml.safe_dump(places), encoding="utf-8")
    with pytest.raises(SettingsError, match=named) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_new_version_applies_from_its_day_on(tmp_path: Path) -> None:
    later = GOOD["versions"][0] | {"effective_from": date(2027, 1, 1), "hours": {"mon-sun": ["10:00-12:00"]}}
    place = GOOD | {"versions": [*GOOD["versions"], later]}
    (tmp_path / "law.yaml").write_text(yaml.safe_dump([place]), encoding="utf-8")
    (everywhere,) = load(tmp_path).of(frozenset({"FR"}))
    weeks = [everywhere.week(day) for day in (date(2019, 12, 31), date(2026, 12, 31), date(2027, 1, 1))]
    assert [week and week[0] for week in weeks] == [None, ((540, 1080),), ((600, 720),)]


def test_every_file_of_the_law_is_read() -> None:
    places = [place for file in LAW.glob("*.yaml") if file.name != "area_codes.yaml"
              for place in yaml.safe_load(file.read_text(encoding="utf-8"))]  # fmt: skip
    assert len(places) >= 25
    for place in places:
        known = {one.region for one in shipped().of(frozenset({place["region"]}))}
        assert place["region"] in known or place["region"] == DEFAULT
