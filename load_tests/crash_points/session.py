"""The media of an answered call, and the end of it on record."""

from __future__ import annotations

from random import Random

from load_tests.crash_points.carrier import Line
from load_tests.crash_points.redis import SimulatedRedis
from serve_app.clock import Clock
from serve_app.dialing.settling import settle_lead
from serve_app.store.attempts import Attempts
from serve_app.store.calls import Calls
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall

TENANT = "acme"


async def converse(db: Database, redis: SimulatedRedis, rng: Random, clock: Clock, line: Line, call_id: str) -> None:
    """A session: it does not die here, for that is another story."""
    calls = Calls(db, TENANT, clock=clock)
    started_at = clock.now()
    await calls.in_progress(call_id, started_at)
    talk_s = rng.uniform(2, 60)
    while talk_s > 0 and not line.hung_up.is_set():
        redis.lease(call_id, 10)
        await clock.sleep(min(3.0, talk_s))
        talk_s -= 3
    if rng.random() < 0.05:
        await DoNotCall(db, TENANT, clock=clock).opt_out(call_id, line.to, "phrase", "stop")
    elif rng.random() < 0.5:
        await Attempts(db, TENANT, clock=clock).report(call_id, "success")
    ended_at = clock.now()
    await calls.finish(
        call_id,
        status="completed",
        outcome="completed" if rng.random() < 0.5 else "callee_hung_up",
        detail=None,
        started_at=started_at,
        ended_at=ended_at,
        duration_s=(ended_at - started_at).total_seconds(),
        sample_rate_hz=16000,
        # Some leave it to the upkeep.
        verdict=settle_lead if rng.random() < 0.7 else None,
    )
    await redis.release(line.attempt_id)
