"""Plans: the data that comes with Parley, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.dialing.plans import Plans, load_plans, shipped_plans
from serve_app.errors import SettingsError


def test_the_shipped_plans_grow_and_the_smallest_is_for_strangers() -> None:
    plans = shipped_plans()
    assert list(plans.plans) == ["basic", "professional", "enterprise"]
    basic, professional, enterprise = plans.plans.values()
    assert plans.of(None) == plans.of("basic") == basic
    assert basic.minutes is not None and professional.minutes is not None and basic.minutes < professional.minutes
    assert (enterprise.minutes, enterprise.agents, enterprise.concurrent_calls) == (None, None, None)
    assert plans.of("gold") is None


def test_costs_are_rounded_up() -> None:
    plans = Plans.model_validate({"plans": {"one": {}}, "minute_minor": 12, "reserve_minutes": 5})
    assert [plans.cost_minor(seconds) for seconds in (0, 1, 60, 61)] == [0, 1, 12, 13]
    assert plans.reserve_minor == 60


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("plans: {}\nminute_minor: 1\nreserve_minutes: 1\n", "name at least one"),
        ("plans: {a: {minute: 3}}\nminute_minor: 1\nreserve_minutes: 1\n", "minute"),
        ("plans: {a: {}}\nminute_minor: 1\n", "reserve_minutes"),
        ("[", "plans.yaml"),
    ],
)
def test_an_error_names_file_and_field(tmp_path: Path, text: str, names: str) -> None:
    file = tmp_path / "plans.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=names) as raised:
        load_plans(file)
    assert str(file) in str(raised.value)
