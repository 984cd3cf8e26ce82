"""Pacing: no call without session, line and place in the rate; less of it while a provider is in trouble."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.pacing import Backpressure, Load, Outlook, most_waiting, pass_s, room

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


def test_a_pass_takes_what_rate_or_sessions_allow() -> None:
    # 3 calls a second, 20 s of ringing, 30 % answered for 90 s: 141 sessions are enough, the rate is the limit.
    usual = Outlook(leads=100_000, calls_per_second=3, sessions=141, answer_rate=0.3, talk_s=90)
    assert pass_s(usual) == pytest.approx(9.26 * 3600, rel=0.001)
    assert pass_s(replace(usual, sessions=47)) == pytest.approx(3 * 100_000 / 3)
    assert pass_s(replace(usual, leads=0)) == 0
    assert pass_s(replace(usual, sessions=0)) is None
