"""How a replica learns that it drains: Serve gives user code no sign of it."""

from __future__ import annotations

import asyncio

SHUTDOWN_COROUTINE = "_perform_graceful_shutdown"
"""The replica's own drain (Ray 2.60), a task of the event loop that it shares with user code."""


def shutdown_began() -> bool:
    """True once Serve drains the replica whose event loop this is.

    Works where user code shares the replica's loop (`RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD=0`, which the shipped
    configuration sets); elsewhere it stays False. Looks at every task of the loop: for once a second, not per frame.
    """
    return any(getattr(task.get_coro(), "__name__", "") == SHUTDOWN_COROUTINE for task in asyncio.all_tasks())
