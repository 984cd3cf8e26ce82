"""Redis forgets everything, or is killed and comes back empty, while calls go on: how soon dialing goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

from load_tests.dialer.checks import Findings, busiest_second, look
from load_tests.dialer.services import OwnRedis
from load_tests.dialer.world import Terms, World

CALLS_PER_SECOND = 10
DIALERS = 2
FLOW = 30
"""Requests between two losses."""
WITHIN_S = 60.0
QUIET_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class RedisLoss:
    flushed_s: list[float]
    """Of each FLUSHALL: the longest time without a request, from it to the next loss."""
    restarted_s: list[float]
    busiest: int
    findings: Findings
    quiet: bool


def terms(rounds: int) -> Terms:
    leads = (2 * rounds + 1) * (FLOW + 2 * CALLS_PER_SECOND)
    # The bucket is forgotten too: the first call after a loss may be one too many, and the network must not mind here.
    return Terms(leads=leads, calls_per_second=CALLS_PER_SECOND, network_limit=2 * CALLS_PER_SECOND)


async def lose_redis(world: World, redis: OwnRedis, rounds: int) -> RedisLoss:
    """In each round it is flushed, and later killed and started anew."""
    for _ in range(DIALERS):
        world.start_dialer()
    await world.more_posts(FLOW, WITHIN_S)
    losses = []
    for _ in range(rounds):
        losses.append(time.time())
        await world.live.client.flushall()
        await world.more_posts(FLOW, WITHIN_S)
        losses.append(time.time())
        redis.restart()
        await world.more_posts(FLOW, WITHIN_S)
    losses.append(time.time())
    quiet = await world.until_called(None, QUIET_WITHIN_S) and await world.until_quiet(QUIET_WITHIN_S)
    await world.stop_dialers()
    seen = await world.seen()
    times = sorted(post.at for post in seen.posts)
    pauses = [longest_pause(times, since, until) for since, until in pairwise(losses)]
    findings = await look(world.db, world.campaign.id, seen, terms(rounds).leads)
    return RedisLoss(pauses[::2], pauses[1::2], busiest_second(times), findings, quiet)


def longest_pause(times: list[float], since: float, until: float) -> float:
    """Between two moments, the longest time in which nothing happened."""
    moments = [since, *(at for at in times if since < at < until), until]
    return max(later - sooner for sooner, later in pairwise(moments))
