"""Plans: the data that comes with Parley, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.dialing.plans import Plans, load_plans, shipped_plans
from serve_app.errors import SettingsError
from serve_app.store.usage import Used


def test_the_shipped_plans_grow_and_the_smallest_is_for_strangers() -> None:
    plans = shipped_plans()
    assert list(plans.plans) == ["basic", "professional", "enterprise"]
    basic, professional, enterprise = plans.plans.values()
    assert plans.of(None) == plans.of("basic") == basic
    assert basic.minutes is not None and professional.minutes is not None and basic.minutes < professional.minutes
    assert (enterprise.minutes, enterprise.agents, enterprise.concurrent_calls) == (None, None, None)
    assert plans.of("gold") is None


@pytest.mark.parametrize(
    ("used", "spent"),
    [
        (Used(talk_s=600), 120),
        # The network charges more than the plans reckon: that counts.
        (Used(talk_s=600, cost_micros=3_000_000, priced_talk_s=600), 300),
        (Used(talk_s=600, cost_micros=3_000_001, priced_talk_s=600), 301),
        # It told of some calls only: the others are reckoned by their talk.
        (Used(talk_s=600, cost_micros=3_000_000, priced_talk_s=300), 360),
        # It charges less: speech and language model are still paid for.
        (Used(talk_s=600, cost_micros=100_000, priced_talk_s=600), 120),
        # A charge counts before the call has ended.
        (Used(cost_micros=500_000), 50),
        # Sums of seconds are not exact; that is no talk.
        (Used(talk_s=0.3, cost_micros=1_000_000, priced_talk_s=0.29999999), 100),
    ],
)
def test_what_is_spent_is_what_the_network_charged_and_never_less_than_by_the_talk(used: Used, spent: int) -> None:
    plans = Plans.model_validate({"plans": {"only": {}}, "minute_minor": 12, "reserve_minutes": 5})
    assert plans.spent_minor(used) == spent
    in_dollars = plans.model_copy(update={"euro_minor": 110.0})
    assert in_dollars.spent_minor(used) >= spent


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
