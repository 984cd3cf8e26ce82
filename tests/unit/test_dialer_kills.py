"""Dialers as processes, killed at random moments: nothing is dialed twice, no lead is lost, every doubt is closed.

A sample of `python -m load_tests.dialer kills`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from load_tests.dialer.checks import busiest_second, overlapping
from load_tests.dialer.kills import kill_often
from load_tests.dialer.network import SeenCall
from load_tests.dialer.redis_loss import longest_pause
from load_tests.dialer.world import Terms, open_world

pytest_plugins = ("tests.unit.store_fixtures",)

LEADS, KILLS = 60, 5


@pytest.mark.timeout(400)  # a dozen processes start; on a machine that is busy with others that alone takes minutes
async def test_killed_dialers_dial_nobody_twice_and_lose_no_lead(
    sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    terms = Terms(leads=LEADS, calls_per_second=50, network_limit=500)
    async with open_world(sqlite_url, redis_url, tmp_path, terms) as world:
        found = await kill_often(world, kills=KILLS, leads=LEADS, seed=7, hurried=True)
    findings = found.findings
    assert found.kills == KILLS and found.quiet
    assert (findings.double_dials, findings.lost, findings.open_attempts, findings.miscounted) == (0, 0, 0, 0)
    assert findings.leads == LEADS and findings.posts > 0 and findings.limited == 0


def test_calls_overlap_that_begin_before_the_last_one_to_the_number_has_ended() -> None:
    first, later = SeenCall("a", "1", 0.0, 5.0), SeenCall("b", "1", 5.0, 9.0)
    assert overlapping([later, first]) == 0
    assert overlapping([first, SeenCall("b", "1", 4.9, 6.0)]) == 1
    assert overlapping([first, SeenCall("b", "2", 4.9, 6.0)]) == 0
    assert overlapping([SeenCall("a", "1", 0.0, None), later]) == 1
    # The one that began first ends last: both others are in its time.
    assert overlapping([SeenCall("a", "1", 0.0, 9.0), SeenCall("b", "1", 1.0, 2.0), SeenCall("c", "1", 3.0, 4.0)]) == 2


def test_the_busiest_second_begins_at_any_moment() -> None:
    assert busiest_second([]) == 0
    assert busiest_second([0.0, 1.0, 2.0]) == 1
    assert busiest_second([0.0, 0.9, 1.0, 1.8, 1.85, 5.0]) == 4


def test_a_pause_counts_from_its_beginning_to_the_end_of_the_watch() -> None:
    assert longest_pause([1.0, 2.0, 9.0], 1.5, 4.0) == 2.0
    assert longest_pause([], 1.0, 4.0) == 3.0
