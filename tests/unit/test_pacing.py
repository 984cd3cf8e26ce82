"""Pacing: no call without session, line and place in the rate; less of it while a provider is in trouble."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.pacing import Backpressure, Load, Outlook, most_waiting, pass_s, room
from serve_app.latency_counts import LatencyCounts

FREE = Load(sessions=20, sessions_taken=0, lines=None, lines_taken=0, waiting=0, most_waiting=8)


def test_the_scarcest_of_sessions_lines_and_rate_decides() -> None:
    assert room(FREE, 1) == (8, "rate")
    assert room(replace(FREE, waiting=6, sessions_taken=6), 1) == (2, "rate")
    assert room(replace(FREE, sessions_taken=17), 1) == (3, "sessions")
    assert room(replace(FREE, lines=10, lines_taken=9), 1) == (1, "sessions")
    assert room(replace(FREE, ringing=4, most_ringing=6), 1) == (2, "sessions")
    assert room(replace(FREE, ringing=4), 1) == (8, "rate")
    assert room(replace(FREE, sessions_taken=9), 0.5) == (1, "sessions")
    assert room(replace(FREE, sessions=0), 1) == (0, "sessions")


@given(
    load=st.builds(
        Load,
        sessions=st.integers(0, 50),
        sessions_taken=st.integers(0, 60),
        lines=st.none() | st.integers(0, 60),
        lines_taken=st.integers(0, 60),
        waiting=st.integers(0, 60),
        most_waiting=st.integers(0, 60),
        ringing=st.integers(0, 60),
        most_ringing=st.none() | st.integers(1, 60),
    ),
    share=st.floats(0.1, 1),
)
def test_room_is_never_negative_and_never_more_than_is_free(load: Load, share: float) -> None:
    more, _ = room(load, share)
    assert more >= 0
    if more:
        assert load.sessions_taken + more <= load.sessions
        assert load.lines is None or load.lines_taken + more <= load.lines
        assert load.most_ringing is None or load.ringing + more <= load.most_ringing
        assert load.waiting + more <= load.most_waiting


def test_as_many_wait_as_the_rate_passes_soon() -> None:
    assert [most_waiting(rate) for rate in (0.5, 3, 30)] == [4, 8, 75]


def test_failures_halve_the_share_and_time_brings_it_back() -> None:
    pressure = Backpressure()
    assert pressure.share(0) == 1
    pressure.failed(10)
    pressure.failed(11)  # of the same moment of trouble
    assert pressure.share(11) == pytest.approx(0.51)
    pressure.failed(20)
    assert pressure.share(20) == pytest.approx(0.3)
    for second in range(30, 200, 10):
        pressure.failed(second)
    assert pressure.share(190) >= 0.1
    shares = [pressure.share(second) for second in range(190, 400, 10)]
    assert shares == sorted(shares) and shares[-1] == 1


def requests(pressure: Backpressure, count: int, seconds: float, begin_s: float) -> list[bool]:
    """One each second, as they are answered."""
    return [pressure.answered(seconds, begin_s + second) for second in range(count)]


def test_requests_that_become_slow_halve_the_share_once_for_each_score_of_them() -> None:
    pressure = Backpressure(slow_request_s=2)
    assert not any(requests(pressure, 600, 0.3, 0))
    assert pressure.share(600) == 1
    assert requests(pressure, 4, 1.2, 600) == [False, False, False, True], "a twentieth of the minute's requests"
    assert pressure.share(603) == pytest.approx(0.5)
    assert sum(requests(pressure, 60, 1.2, 604)) == 3
    # What stays so becomes usual, and the share comes back.
    assert not any(requests(pressure, 1200, 1.2, 700)[-600:])
    assert pressure.share(1900) == 1


def test_requests_above_the_limit_are_slow_however_usual_and_fast_ones_never() -> None:
    pressure = Backpressure(slow_request_s=2)
    assert sum(requests(pressure, 600, 2.1, 0)) == 30
    assert pressure.share(600) <= 0.4
    fast = Backpressure(slow_request_s=2)
    assert not any(requests(fast, 100, 0.02, 0) + requests(fast, 100, 0.45, 100))
    few = Backpressure(slow_request_s=2)
    assert not any(few.answered(7.0, 4.0 * second) for second in range(100)), "fifteen in a minute"


class Replica:
    """A session replica that counts its replies as they all do."""

    def __init__(self) -> None:
        self.counts = LatencyCounts()

    def reply(self, times: int, *causes: str, **ms: float) -> None:
        for _ in range(times):
            self.counts.reply({"stt_ms": 200, "llm_ms": 60, "tts_ms": 80, "total_ms": 350} | ms, {}, causes)

    def report(self) -> dict[str, Any]:
        return self.counts.report()


def test_slow_or_failing_providers_of_live_calls_halve_the_share() -> None:
    for name, trouble in (
        ("slow model", lambda one: one.reply(10, llm_ms=1600.0, total_ms=2000.0)),
        ("slow transcriber", lambda one: one.reply(10, stt_ms=4000.0, total_ms=4200.0)),
        ("synthesizer fails", lambda one: one.counts.reply({}, {}, ["tts_failed: HTTP 503"] * 10)),
    ):
        pressure, old, new = Backpressure(), Replica(), Replica()
        old.reply(500, llm_ms=9000.0)
        assert not pressure.replied({"old": old.report()}, 0), "before this dialer began"
        for second in range(5, 60, 5):
            old.reply(20)
            assert not pressure.replied({"old": old.report(), "new": new.report()}, second), name
        trouble(new)
        old.reply(40)
        assert pressure.replied({"old": old.report(), "new": new.report()}, 60), name
        assert pressure.share(60) == pytest.approx(0.5)
        assert not pressure.replied({"old": old.report(), "new": new.report()}, 65), "it is judged once"
        assert pressure.share(120) == 1


def test_a_tool_that_is_slow_is_no_trouble_and_few_replies_say_nothing() -> None:
    pressure, replica = Backpressure(), Replica()
    replica.reply(1)
    assert not pressure.replied({"one": replica.report()}, 0)
    replica.reply(100, total_ms=3000.0)
    assert not pressure.replied({"one": replica.report()}, 5)
    for minute in range(5):
        replica.reply(30, llm_ms=1600.0)
        assert not pressure.replied({"one": replica.report()}, 100 + 61 * minute)
    assert not pressure.replied({}, 500)


def test_what_slows_every_tenth_reply_becomes_usual_and_what_slows_most_does_not() -> None:
    pressure, replica = Backpressure(), Replica()
    replica.reply(1)
    heard = []
    for look in range(40):
        replica.reply(90)
        replica.reply(10, tts_ms=1600.0)
        heard.append(pressure.replied({"one": replica.report()}, 5 * look))
    assert heard.index(True) <= 2 and not any(heard[20:])
    for look in range(40, 80):
        replica.reply(60, tts_ms=1600.0)
        assert pressure.replied({"one": replica.report()}, 5 * look)
    assert pressure.share(400) < 0.2


def test_a_pass_takes_what_rate_or_sessions_allow() -> None:
    # 3 calls a second, 20 s of ringing, 30 % answered for 90 s: 141 sessions are enough, the rate is the limit.
    usual = Outlook(leads=100_000, calls_per_second=3, sessions=141, answer_rate=0.3, talk_s=90)
    assert pass_s(usual) == pytest.approx(9.26 * 3600, rel=0.001)
    assert pass_s(replace(usual, sessions=47)) == pytest.approx(3 * 100_000 / 3)
    assert pass_s(replace(usual, leads=0)) == 0
    assert pass_s(replace(usual, sessions=0)) is None
