"""Loop lag: what a stalled event loop would have done to every timer."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve_app.loop_lag import LoopLag


async def test_a_blocked_loop_shows() -> None:
    lag = LoopLag(interval_s=0.01, window_s=1)
    lag.start()
    await asyncio.sleep(0.03)
    time.sleep(0.2)  # noqa: ASYNC251  # the point
    await asyncio.sleep(0.03)
    lag.stop()
    assert lag.max_ms >= 180
    # Twenty timers would have fallen into the stall, and not only the one that was armed.
    assert lag.percentile_ms(0.6) > 20


def test_a_stall_delays_every_timer_due_meanwhile() -> None:
    lag = LoopLag(interval_s=0.1, window_s=1)
    lag._due_s = 10.0
    lag.observe(10.45)
    assert [round(value, 2) for value in lag._lags_s] == [0.45, 0.35, 0.25, 0.15, 0.05]
    assert lag._due_s == pytest.approx(10.5)


def test_only_the_window_counts() -> None:
    lag = LoopLag(interval_s=0.1, window_s=1)
    lag._due_s = 0.0
    lag.observe(5.0)
    for step in range(51, 61):
        lag.observe(step / 10)
    assert lag.max_ms < 1 and lag.percentile_ms(0.95) < 1


def test_nothing_is_known_before_the_first_sample() -> None:
    assert (LoopLag().percentile_ms(0.95), LoopLag().max_ms) == (0, 0)
