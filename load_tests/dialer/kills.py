"""SIGKILL, again and again: dialers die at random moments of a run, and a new one starts at once.

Some die while they start, others a random time after it. Half of the kills are the network's: at the moment in which a
request arrives there, before it is looked at, or up to 30 ms later, when its answer and its first webhooks are under
way.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from load_tests.dialer.checks import Findings, longest_doubt_s, look
from load_tests.dialer.child import Child
from load_tests.dialer.world import World

AT_START = 0.1
LONGEST_START_S = 0.1
LONGEST_LIFE_S = 3.0
LONGEST_LIFE = 6.0
"""By how long it took to start, if that is more: on a machine that is busy all takes longer."""
# A dialer that has nothing to send is killed all the same. The first request of one takes over a second: it waits for
# what its predecessor held, for its slot of the rate, and for the moment after it.
LEAST_SHOT_S = 5.0
USUAL_POSTS = 8
LATEST_SHOT_S = 0.03
QUIET_WITHIN_S = 900.0
WEBHOOKS_S = 1.0
"""For the first webhook of a call, which tells whose it is."""


@dataclass(frozen=True, slots=True)
class Killing:
    """One run."""

    kills: int
    by_request: int
    """Of them, those at a request."""
    findings: Findings
    quiet: bool
    """Everything came to its end."""
    quiet_after_s: float
    """From the last kill."""
    hurried: bool
    doubt_s: float
    """From the last kill to the end of the last attempt of which nobody ever heard."""


async def kill_often(
    world: World,
    *,
    kills: int,
    leads: int,
    seed: int,
    hurried: bool,
    rest: int | None = None,
    show: Callable[[str], None] = print,
) -> Killing:
    """At most so many kills, as long as there are leads to call; then one dialer brings what is left to its end.

    `rest`: after so many of its requests the campaign is paused; None: it calls everybody.

    `hurried`: the next dialer finds the leases of the dead one over, and takes over what it held; else it has to wait
    for them, and most of it is still waiting when it dies itself.
    """
    rng = random.Random(seed)
    killed = by_request = 0
    while killed < kills and (killed % 10 or await world.waiting_leads()):
        dialer = world.start_dialer()
        by_request += await _kill(world, dialer, rng)
        killed += 1
        if hurried:
            await world.end_leases()
    died_at, began = datetime.now(UTC), time.monotonic()
    if hurried:
        await asyncio.sleep(WEBHOOKS_S)
        await world.close_doubts()
    world.start_dialer()
    quiet = await world.until_called(rest, QUIET_WITHIN_S)
    if rest is not None:
        await world.pause()
    quiet = await world.until_quiet(QUIET_WITHIN_S) and quiet
    quiet_after_s = time.monotonic() - began
    await world.stop_dialers()
    found = Killing(
        kills=killed,
        by_request=by_request,
        findings=await look(world.db, world.campaign.id, await world.seen(), leads),
        quiet=quiet,
        quiet_after_s=quiet_after_s,
        hurried=hurried,
        doubt_s=await longest_doubt_s(world.db, world.campaign.id, died_at),
    )
    show(f"{found}")
    return found


async def _kill(world: World, dialer: Child, rng: random.Random) -> bool:
    """True: at a request."""
    how, started = rng.random(), time.monotonic()
    if how < AT_START:
        await asyncio.sleep(rng.uniform(0, LONGEST_START_S))
        await dialer.kill()
        return False
    await dialer.ready()
    took_s = time.monotonic() - started
    if how < 0.5:
        await asyncio.sleep(rng.uniform(0, max(LONGEST_LIFE_S, LONGEST_LIFE * took_s)))
        await dialer.kill()
        return False
    delay_s = 0.0 if rng.random() < 0.5 else rng.uniform(0, LATEST_SHOT_S)
    await world.shoot(dialer, posts=1 + int(rng.expovariate(1 / USUAL_POSTS)), delay_s=delay_s)
    if await dialer.dead(max(LEAST_SHOT_S, LONGEST_LIFE * took_s)):
        return True
    await world.lower()
    # The shot may have been fired meanwhile.
    await dialer.kill()
    return False
