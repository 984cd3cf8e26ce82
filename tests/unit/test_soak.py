"""The soak's verdicts: what grows is a MISS, what wanders is not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.soak import __main__ as soak
from load_tests.soak.trend import mann_kendall_rising, trend
from load_tests.soak.verdict import judged, void_minutes


def sample(minute: int, **changes: float) -> dict[str, float]:
    figures = {
        "minute": float(minute),
        "rss_mb CallSessions": 400.0,
        "rss_mb Redis": 20.0 + minute,
        "fds CallSessions": 120.0,
        "tasks sessions": 300.0,
        "calls over but held sessions": 20.0,
        "replicas sessions": 2.0,
        "redis keys without end": 12.0,
        "redis slots": 70.0,
        "redis keys that expire": 100.0 + 300 * minute,
        "added p99 ms": 20.0,
        "calls ended": 100.0,
        "calls failed": 0.0,
        "turns unanswered": 0.0,
        "barge-ins missed": 0.0,
        "set-ups late": 0.0,
        "underruns": 0.0,
        "void reasons": 0.0,
    }
    return {**figures, **changes}


def verdict(samples: list[dict[str, float]]) -> dict[str, bool]:
    return {line.name: line.passed for line in judged(samples)}


def test_a_platform_at_rest_passes() -> None:
    """Redis' memory and expiring keys grow with ended calls by design, and are judged per call."""
    assert all(verdict([sample(minute) for minute in range(30)]).values())


@pytest.mark.parametrize("name", ["fds CallSessions", "tasks sessions", "redis keys without end"])
def test_a_slow_leak_is_a_miss(name: str) -> None:
    samples = [sample(minute) for minute in range(30)]
    for minute, figures in enumerate(samples):
        figures[name] += minute // 3
    assert not verdict(samples)[name]


def test_memory_that_grows_by_three_per_cent_is_a_miss() -> None:
    samples = [sample(minute, **{"rss_mb CallSessions": 400 + minute * 0.5}) for minute in range(30)]
    assert not verdict(samples)["memory of all processes but Redis, MB"]


def test_what_grows_in_the_warm_up_only_passes() -> None:
    samples = [sample(minute, **{"rss_mb CallSessions": 300.0 + 25 * min(minute, 4)}) for minute in range(30)]
    assert verdict(samples)["memory of all processes but Redis, MB"]


def test_a_latency_that_wanders_passes_and_one_that_climbs_does_not() -> None:
    draw = random.Random(1)
    wandering = [sample(minute, **{"added p99 ms": 20 + draw.uniform(-6, 6)}) for minute in range(30)]
    climbing = [sample(minute, **{"added p99 ms": 20 + minute + draw.uniform(-3, 3)}) for minute in range(30)]
    assert verdict(wandering)["added p99 ms"]
    assert not verdict(climbing)["added p99 ms"]


def test_ended_calls_that_are_not_freed_are_a_miss() -> None:
    samples = [sample(minute, **{"calls over but held sessions": 20.0 * minute}) for minute in range(30)]
    assert not verdict(samples)["calls over but held, sessions"]


def test_a_failed_call_and_keys_that_pile_up_are_misses() -> None:
    samples = [sample(minute, **{"redis keys that expire": 100.0 + 900 * minute}) for minute in range(30)]
    samples[7]["calls failed"] = 1
    found = verdict(samples)
    assert not found["calls failed"]
    assert not found["redis keys that expire, per ended call"]


def test_no_calls_at_all_are_no_success() -> None:
    assert not verdict([sample(minute, **{"calls ended": 0.0}) for minute in range(30)])["calls failed"]


@pytest.mark.parametrize("name", ["turns unanswered", "barge-ins missed", "set-ups late", "underruns"])
def test_what_must_not_happen_once_is_a_miss_even_in_the_warm_up(name: str) -> None:
    samples = [sample(minute) for minute in range(30)]
    samples[0][name] = 1
    assert [line for line, passed in verdict(samples).items() if not passed] == [name]


def test_a_soak_that_does_not_tell_does_not_pass() -> None:
    samples = [sample(minute) for minute in range(30)]
    for figures in samples:
        del figures["turns unanswered"]
    assert not verdict(samples)["turns unanswered"]


def test_a_void_minute_tells_nothing_of_the_latency_and_all_of_the_rest() -> None:
    samples = [sample(minute) for minute in range(30)]
    for minute in range(20, 26):
        samples[minute].update({"void reasons": 1, "added p99 ms": 900.0 + minute})
    assert void_minutes(samples) == [20, 21, 22, 23, 24, 25]
    assert all(verdict(samples).values())
    samples[22]["calls failed"] = 1
    assert [line for line, passed in verdict(samples).items() if not passed] == ["calls failed"]


@pytest.mark.parametrize(("void", "code"), [(0, 0), (7, 0), (8, soak.EXIT_VOID)])
def test_a_soak_of_which_too_much_is_void_is_told_by_exit_code_and_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], void: int, code: int
) -> None:
    samples = [sample(minute) for minute in range(30)]
    for figures in samples[:void]:
        figures["void reasons"] = 1
    monkeypatch.setattr(soak, "take_cores", lambda: (0, 1))
    monkeypatch.setattr(soak, "_measure", lambda *_: samples)
    monkeypatch.setattr("sys.argv", ["soak", "--calls", "5", "--out", str(tmp_path)])
    assert soak.main() == code
    shown = capsys.readouterr().out
    assert ("VOID" in shown, "PASS" in shown) == (code != 0, code == 0)
    assert (f"{void} samples" in shown) == (void > 0)
    assert len(json.loads((tmp_path / "result.json").read_text())["void_minutes"]) == void


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40))
def test_a_series_and_its_reverse_never_both_rise(values: list[float]) -> None:
    assert not (trend(values).rising and trend(values[::-1]).rising)


def test_the_trend_test_against_known_cases() -> None:
    assert mann_kendall_rising([5.0] * 20) == 1.0
    assert mann_kendall_rising(list(range(20))) < 1e-6
    assert mann_kendall_rising(list(range(20, 0, -1))) > 0.999
