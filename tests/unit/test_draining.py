"""A replica knows that it drains."""

from __future__ import annotations

import asyncio
import inspect

from ray.serve._private.replica import Replica

from deployments.draining import SHUTDOWN_COROUTINE, shutdown_began


async def test_a_replica_knows_that_it_is_shutting_down() -> None:
    assert not shutdown_began()

    async def _perform_graceful_shutdown() -> None:
        await asyncio.sleep(30)

    shutdown = asyncio.create_task(_perform_graceful_shutdown())
    assert shutdown_began()
    shutdown.cancel()


def test_the_name_is_still_that_of_serve() -> None:
    """Every replica runs this coroutine as a task of its own loop when it drains."""
    assert inspect.iscoroutinefunction(getattr(Replica, SHUTDOWN_COROUTINE))
    assert f"self.{SHUTDOWN_COROUTINE}()" in inspect.getsource(Replica.perform_graceful_shutdown)
