"""From the wish of a person that nothing more is dialed to the last request that arrives at the network."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from sqlalchemy import select

from load_tests.dialer.world import TENANT, Terms, World
from serve_app.store.campaign_models import EVERYBODY
from serve_app.store.campaign_rows import SwitchScope
from serve_app.store.campaigns import Campaigns
from serve_app.store.kill_switches import KillSwitches
from serve_app.store.models import Attempt

WAYS = ("number", "campaign", "tenant", "global", "pause")
CALLS_PER_SECOND = 10
DIALERS = 2
FLOW = 15
"""Requests that have to come before the next switch is set."""
WATCHED_S = 3.0
NUMBERS = 5
WITHIN_S = 60.0


def terms(rounds: int) -> Terms:
    # A switch for a number closes its lead; the others use up what is called between them.
    leads = rounds * len(WAYS) * (FLOW + 6 * CALLS_PER_SECOND)
    return Terms(leads=leads, calls_per_second=CALLS_PER_SECOND, network_limit=CALLS_PER_SECOND)


async def switch_off(world: World, rounds: int) -> dict[str, list[float]]:
    """Per way, in each round: seconds from the asking to the last request that it should have stopped; 0: none came.

    The asking, not the commit: it is earlier, and what a person sees.
    """
    for _ in range(DIALERS):
        world.start_dialer()
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            await world.more_posts(FLOW, WITHIN_S)
            found[way].append(await _once(world, way))
    await world.stop_dialers()
    return found


async def _once(world: World, way: str) -> float:
    numbers = await _waiting(world) if way == "number" else []
    asked_at = time.time()
    await _set(world, way, numbers)
    await asyncio.sleep(WATCHED_S)
    posts = (await world.seen()).posts
    await _lift(world, way, numbers)
    world.wake_dialers()
    covered = {one.removeprefix("+") for one in numbers}
    late = [post.at - asked_at for post in posts if post.at > asked_at and (not covered or post.number in covered)]
    return max(late, default=0.0)


async def _set(world: World, way: str, numbers: Sequence[str]) -> None:
    if way == "pause":
        await Campaigns(world.db, TENANT).pause(world.campaign.id)
        return
    for switches, scope, key in _switches(world, way, numbers):
        await switches.on(scope, key, reason="a run of the dialer", by="load_tests")


async def _lift(world: World, way: str, numbers: Sequence[str]) -> None:
    if way == "pause":
        await Campaigns(world.db, TENANT).resume(world.campaign.id)
        return
    for switches, scope, key in _switches(world, way, numbers):
        await switches.off(scope, key, by="load_tests")


def _switches(world: World, way: str, numbers: Sequence[str]) -> list[tuple[KillSwitches, SwitchScope, str]]:
    own = KillSwitches(world.db, TENANT)
    if way == "number":
        return [(own, "number", one) for one in numbers]
    if way == "campaign":
        return [(own, "campaign", world.campaign.id)]
    if way == "tenant":
        return [(own, "tenant", TENANT)]
    return [(KillSwitches(world.db, EVERYBODY), "global", EVERYBODY)]


async def _waiting(world: World) -> list[str]:
    """Numbers whose calls wait for the rate of the network, those that come next first."""
    waiting = select(Attempt.to_number).where(Attempt.tenant_id == TENANT, Attempt.status == "intended")
    async with world.db.session() as session:
        return list(await session.scalars(waiting.order_by(Attempt.next_at, Attempt.id).limit(NUMBERS)))
