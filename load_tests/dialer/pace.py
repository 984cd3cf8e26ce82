"""The account's rate: dialers that know nothing of each other, and what arrives at the network."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from load_tests.dialer.checks import Findings, busiest_second, look
from load_tests.dialer.world import AT_ONCE, Terms, World

DIALERS = 4
WARM_UP_S = 3.0
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Pace:
    """What arrived in the time of the measurement."""

    used: float
    """Share of the rate."""
    busiest: int
    """Requests in any one second of the whole run."""
    findings: Findings


def terms(calls_per_second: int, seconds: float) -> Terms:
    """More leads than can be called; each rejects at once, so that the network has time to look at its clock."""
    leads = math.ceil((seconds + WARM_UP_S + START_S / 4) * calls_per_second)
    return Terms(
        leads=leads, calls_per_second=calls_per_second, network_limit=calls_per_second, callees=AT_ONCE, sessions=200
    )


async def keep_pace(world: World, *, calls_per_second: int, seconds: float) -> Pace:
    for _ in range(DIALERS):
        world.start_dialer()
    await world.more_posts(1, START_S)
    await asyncio.sleep(WARM_UP_S)
    since = time.time()
    await asyncio.sleep(seconds)
    until = time.time()
    await world.stop_dialers()
    await asyncio.sleep(1.0)  # what still rings
    seen = await world.seen()
    times = [post.at for post in seen.posts]
    within = sum(since <= at < until for at in times)
    return Pace(
        used=within / ((until - since) * calls_per_second),
        busiest=busiest_second(times),
        findings=await look(world.db, world.campaign.id, seen, terms(calls_per_second, seconds).leads),
    )
