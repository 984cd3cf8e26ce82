"""`make bench-dialer`: what holds when dialers die, share a rate, are switched off, or lose Redis.

`python -m load_tests.dialer kills|ray|pace|switches|redis`. Every dialer is a process; SQL, Redis, HTTP and the
webhooks are real, the phone network is simulated. `ray`: the whole platform, on SQLite, and Serve starts the next
dialer. Each prints aim, figure, spread, PASS or MISS, and stops what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import uvloop

from load_tests.dialer import pace, redis_loss, switches
from load_tests.dialer.checks import Findings
from load_tests.dialer.kills import Killing, kill_often
from load_tests.dialer.ray_kills import kill_replicas, ray_platform
from load_tests.dialer.services import Databases, databases, own_redis
from load_tests.dialer.world import Terms, open_world
from load_tests.micro.figures import Figure, print_figures
from serve_app.log import configure_logging
from serve_app.settings import LogSettings

say = partial(print, flush=True)
KILLS_PER_RUN = 100
REAL_TIME = 4
"""Every so many runs one waits for leases and doubts as they are."""
FAST = 20
"""Calls a second where the rate is not what is measured. A dialer works at as many as pass in 2.5 s at once."""
CLOSED_WITHIN_S = 120
STOPPED_WITHIN_S = 1
RESUMED_WITHIN_S = 10
REPLACED_WITHIN_S = 30
"""Serve notices a death, starts a process, and its imports take seconds; the dead one's leases are over meanwhile."""
LEAST_USED = 85


async def run_kills(
    stores: Databases, kills: int, leads: int, lanes: int, seed: int, rest: int | None
) -> list[Killing]:
    """Runs until there were so many kills, `lanes` at once: while one waits for its doubts to end, another kills.

    All but every fourth are hurried.
    """
    done: list[Killing] = []
    seeds = iter(range(seed, seed + 10 * kills))
    under_way = 0

    async def lane() -> None:
        nonlocal under_way
        while (left := kills - under_way - sum(one.kills for one in done)) > 0:
            ours, mine = min(left, KILLS_PER_RUN), next(seeds)
            under_way += ours
            with own_redis() as redis:
                url = await asyncio.to_thread(stores.new)
                terms = Terms(leads=leads, calls_per_second=FAST, network_limit=10 * FAST, seed=mine)
                async with open_world(url, redis.url, stores.folder, terms) as world:
                    hurried = mine % REAL_TIME != 0
                    found = await kill_often(
                        world, kills=ours, leads=leads, seed=mine, hurried=hurried, rest=rest, show=say
                    )
            done.append(found)
            under_way -= ours

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(lane())
    return done


def kill_figures(runs: Sequence[Killing]) -> list[Figure]:
    kills, calls = sum(run.kills for run in runs), sum(run.findings.posts for run in runs)
    by_request = sum(run.by_request for run in runs)
    say(f"{kills} kills in {len(runs)} runs, {by_request} of them at a request; {calls} requests")
    waits = [run.doubt_s for run in runs if not run.hurried]
    figures = _counts([run.findings for run in runs])
    figures.append(Figure("runs that did not come to an end", 0, "", [sum(not run.quiet for run in runs)]))
    if waits:
        figures.append(Figure("last doubt closed after the last kill, worst", CLOSED_WITHIN_S, "s", [max(waits)]))
    return figures


def _counts(findings: Sequence[Findings]) -> list[Figure]:
    return [
        Figure("double dials", 0, "", [sum(one.double_dials for one in findings)]),
        Figure("lost leads", 0, "", [sum(one.lost for one in findings)]),
        Figure("attempts without an end", 0, "", [sum(one.open_attempts for one in findings)]),
        Figure("leads whose calls are miscounted", 0, "", [sum(one.miscounted for one in findings)]),
    ]


async def run_pace(stores: Databases, calls_per_second: int, seconds: float) -> list[Figure]:
    with own_redis() as redis:
        url = await asyncio.to_thread(stores.new)
        async with open_world(url, redis.url, stores.folder, pace.terms(calls_per_second, seconds)) as world:
            found = await pace.keep_pace(world, calls_per_second=calls_per_second, seconds=seconds)
    what = f"{calls_per_second}/s, {pace.DIALERS} dialers, {seconds:g} s"
    return [
        Figure(f"{what}: most requests in any second", calls_per_second, "", [found.busiest]),
        Figure(f"{what}: refused by the network", 0, "", [found.findings.limited]),
        Figure(f"{what}: of the rate used", LEAST_USED, "%", [100 * found.used], at_least=True),
        Figure(f"{what}: double dials", 0, "", [found.findings.double_dials]),
    ]


async def run_switches(stores: Databases, rounds: int) -> list[Figure]:
    with own_redis() as redis:
        url = await asyncio.to_thread(stores.new)
        async with open_world(url, redis.url, stores.folder, switches.terms(rounds)) as world:
            found = await switches.switch_off(world, rounds)
    return [
        Figure(f"{way}: from asking to the last request", STOPPED_WITHIN_S, "s", times) for way, times in found.items()
    ]


async def run_redis(stores: Databases, rounds: int) -> list[Figure]:
    with own_redis() as redis:
        url = await asyncio.to_thread(stores.new)
        async with open_world(url, redis.url, stores.folder, redis_loss.terms(rounds)) as world:
            found = await redis_loss.lose_redis(world, redis, rounds)
    return [
        Figure("FLUSHALL: longest pause of dialing", RESUMED_WITHIN_S, "s", found.flushed_s),
        Figure("Redis killed, back empty: longest pause of dialing", RESUMED_WITHIN_S, "s", found.restarted_s),
        *_counts([found.findings]),
        Figure("the run did not come to an end", 0, "", [float(not found.quiet)]),
        Figure("most requests in any second", redis_loss.CALLS_PER_SECOND + 1, "", [found.busiest]),
    ]


def run_ray(kills: int, leads: int, seed: int) -> list[Figure]:
    with ray_platform() as platform:
        found = kill_replicas(platform, kills=kills, leads=leads, seed=seed, show=say)
    say(f"{found.kills} kills, {found.by_request} of them right after a request; {found.findings.posts} calls")
    return [
        *_counts([found.findings]),
        Figure("kills that were not reached", 0, "", [kills - found.kills]),
        Figure("the run did not come to an end", 0, "", [float(not found.quiet)]),
        Figure("from a kill to the next request, worst", REPLACED_WITHIN_S, "s", [max(found.replaced_s)]),
    ]


async def measure(chosen: argparse.Namespace) -> list[Figure]:
    if chosen.what == "ray":
        return await asyncio.to_thread(run_ray, chosen.kills, chosen.leads, chosen.seed)
    with databases(chosen.sql) as stores:
        if chosen.what == "kills":
            runs = await run_kills(stores, chosen.kills, chosen.leads, chosen.lanes, chosen.seed, chosen.rest)
            return kill_figures(runs)
        if chosen.what == "pace":
            return [figure for cps in chosen.cps for figure in await run_pace(stores, cps, chosen.seconds)]
        if chosen.what == "switches":
            return await run_switches(stores, chosen.rounds)
        return await run_redis(stores, chosen.rounds)


async def until_stopped(work: Coroutine[Any, Any, list[Figure]]) -> list[Figure]:
    """SIGTERM is a way out like Ctrl-C: what was started is stopped."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load_tests.dialer", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sql", choices=["sqlite", "postgresql"], default="sqlite")
    what = parser.add_subparsers(dest="what", required=True)
    killing = what.add_parser("kills", help="SIGKILL at random moments of 2,000-lead runs (half an hour)")
    killing.add_argument("--kills", type=int, default=1000)
    killing.add_argument("--leads", type=int, default=2000, help="of each run")
    killing.add_argument("--lanes", type=int, default=2, help="runs at once")
    killing.add_argument("--seed", type=int, default=1)
    killing.add_argument("--rest", type=int, help="pause each campaign so many calls after its last kill")
    under_ray = what.add_parser("ray", help="SIGKILL to replicas of the deployment, replaced by Serve (10 min)")
    under_ray.add_argument("--kills", type=int, default=20)
    under_ray.add_argument("--leads", type=int, default=300)
    under_ray.add_argument("--seed", type=int, default=1)
    rate = what.add_parser("pace", help="four dialers share a rate")
    rate.add_argument("--cps", type=int, nargs="+", default=[3, 30])
    rate.add_argument("--seconds", type=float, default=300)
    for name, told in (("switches", "kill switches and pause"), ("redis", "FLUSHALL, and a Redis that is killed")):
        what.add_parser(name, help=told).add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


def main() -> int:
    """The exit code is 1 when something that must not happen did: a count that is not 0."""
    chosen = arguments()
    configure_logging(LogSettings(level="ERROR"))
    try:
        figures = uvloop.run(until_stopped(measure(chosen)))
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 130
    print_figures(f"Dialers: {chosen.what}, {chosen.sql}", figures)
    return int(any(figure.aim == 0 and not figure.passed for figure in figures))
