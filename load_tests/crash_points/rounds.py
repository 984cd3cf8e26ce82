"""A round: one world from its beginning to its end, on simulated time, the same whenever it is played again."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import sys
import threading
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import structlog
import uuid_utils

from load_tests.crash_points.carrier import ContractBroken
from load_tests.crash_points.processes import sql_engine
from load_tests.crash_points.world import SimulatedClock, Tally, World
from serve_app.clock import SystemClock
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.store.db import Database


def end_with_parent() -> None:
    """Let this process of a pool end as soon as the one that began it has, however that came about."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def play(template: Path, folder: Path, seed: int, *, leads: int) -> Tally:
    """One round, on a copy of the migrated database `template`. Raises ContractBroken, which names the seed."""
    database = folder / f"round-{seed}.db"
    database.write_bytes(template.read_bytes())
    try:
        with _one_clock(), _ids_in_order(), _no_fault_unseen():
            return run_virtual(_play(database, seed, leads))
    finally:
        for file in folder.glob(f"{database.name}*"):
            file.unlink()


@contextmanager
def _one_clock() -> Iterator[None]:
    """Also where a clock is not handed in."""
    with (
        patch.object(SystemClock, "now", SimulatedClock.now),
        patch.object(SystemClock, "monotonic", SimulatedClock.monotonic),
    ):
        yield


@contextmanager
def _no_fault_unseen() -> Iterator[None]:
    """What the root of a loop catches and logs is a fault of ours; the other troubles are what this is about."""

    def tell(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
        if event.get("exc_info") and (error := sys.exc_info()[1]) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"{event['event']}: {error!r}", "exception": error}
            )
        raise structlog.DropEvent

    configured = structlog.get_config()
    structlog.configure(processors=[tell], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    try:
        yield
    finally:
        structlog.configure(**configured)


@contextmanager
def _ids_in_order() -> Iterator[None]:
    """The same ids whenever a round is played again."""
    numbers = count(1)
    with patch.object(uuid_utils, "uuid7", lambda: uuid.UUID(int=next(numbers))):
        yield


async def _play(database: Path, seed: int, leads: int) -> Tally:
    engine = sql_engine(database)
    db = Database(engine.url, engine)
    try:
        world = World(db, Random(seed), leads)
        await world.run()
        return world.tally
    except ContractBroken as error:
        raise ContractBroken(f"seed {seed}, {leads} leads: {error}") from error
    finally:
        await db.aclose()
