"""How a replica learns that it drains: Serve gives user code no sign of it."""

from __future__ import annotations

import asyncio
import os

SHUTDOWN_COROUTINE = "_perform_graceful_shutdown"
"""The replica's own drain (Ray 2.60), a task of the event loop that it shares with user code."""

POLL_S = 0.5


def shutdown_began() -> bool:
    """True once Serve drains the replica whose event loop this is.

    Works where user code shares the replica's loop (`RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0`, which the shipped
    configuration sets); elsewhere it stays False. Looks at every task of the loop: for once a second, not per frame.
    """
    return any(getattr(task.get_coro(), "__name__", "") == SHUTDOWN_COROUTINE for task in asyncio.all_tasks())


def draining_period_s() -> float:
    """How long a draining replica still takes connections: until load balancers know that it goes."""
    return float(os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "30"))


async def until_refusing(period_s: float, poll_s: float = POLL_S) -> None:
    """Until this replica drains and its draining period is over: from then on Serve's own listener refuses, too."""
    while not shutdown_began():  # noqa: ASYNC110  Serve offers no event
        await asyncio.sleep(poll_s)
    await asyncio.sleep(period_s)
