"""What a whole call asks of SQL and Redis outside its media path: it must not creep up."""

from __future__ import annotations

from pathlib import Path

from load_tests.control_cost.plane import ControlPlane
from load_tests.control_cost.tally import Tally

pytest_plugins = ("tests.unit.store_fixtures",)

MOST_STATEMENTS = 86
"""Of one outbound call of eight turns, commits included; 124 before they were counted. A turn takes two or three."""
MOST_ROUND_TRIPS = 60
"""To Redis; 86 before."""
CALLS = 2


async def test_a_whole_call_stays_within_its_statements_and_round_trips(
    sqlite_url: str, redis_url: str, tmp_path: Path
) -> None:
    async with ControlPlane.open(sqlite_url, redis_url, tmp_path) as plane:
        await plane.live.client.flushall()
        await plane.live.beat("replica", 100, ttl_s=3600)
        await plane.call(Tally())  # scripts, connections
        tallies = [Tally() for _ in range(CALLS)]
        for tally in tallies:
            with tally.watching(plane.db):
                await plane.call(tally)
    # The dialer and the job runner look around on their own as well, more often in a call that takes longer: the
    # least counts.
    counted = min((_counted(tally) for tally in tallies), key=lambda counts: sum(counts.values()))
    assert 70 <= sum(counted.values()) <= MOST_STATEMENTS, counted
    trips = min((_trips(tally) for tally in tallies), key=lambda counts: sum(counts.values()))
    assert sum(trips.values()) <= MOST_ROUND_TRIPS, trips
    # What a repeated or uninteresting event costs: its record.
    assert tally.statements["webhook: media started"].total() == 2
    assert tally.statements["webhook: answer"]["COMMIT"] == 1


def _counted(tally: Tally) -> dict[str, int]:
    return {name: counts.total() for name, counts in tally.statements.items() if name != "measurement"}


def _trips(tally: Tally) -> dict[str, int]:
    return {name: count for name, count in tally.round_trips.items() if name != "measurement"}
