"""Several processes write to one SQLite file at once, as the replicas of a laptop do."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime

from serve_app.store.db import Database
from serve_app.store.repositories import Agents, Attempts, Calls, Events, Jobs, RawEvent, Turns
from tests.unit.store_fixtures import call_entity, inbound

pytest_plugins = ("tests.unit.store_fixtures",)

PROCESSES, TASKS, WRITES = 4, 5, 12
WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from serve_app.store.db import Database
from serve_app.store.repositories import Agents, Calls, Events, RawEvent, Turns

async def main(url, call_id, name):
    db = await Database.connect(url)
    async def write(task):
        for n in range({writes}):
            key = f"{{name}}-{{task}}-{{n}}"
            # Reads, then writes in the same transaction: with a deferred BEGIN that fails as soon as others write.
            await Agents(db, "acme").apply("shared", {{"key": key}})
            await Calls(db, "acme").create_inbound(carrier_call_id=key, from_number="+1", to_number="+2",
                agent_name="a", agent_version=1, metadata={{}})
            await Turns(db, "acme").put(call_id, 0, "agent", key, key, 0, 1, False, False, {{"total_ms": 1}})
            assert await Events(db, "acme").record(RawEvent(key, "test", "x", None, {{}}, datetime.now(UTC)))
    async with asyncio.TaskGroup() as group:
        for task in range({tasks}):
            group.create_task(write(task))
    await db.aclose()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_writers_of_several_processes_all_succeed(sqlite_url: str, sqlite_db: Database) -> None:
    call = await inbound(sqlite_db)
    code = WRITER.format(writes=WRITES, tasks=TASKS)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, sqlite_url, call.id, f"p{n}", stderr=asyncio.subprocess.PIPE
        )
        for n in range(PROCESSES)
    ]
    errors = [(await process.communicate())[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(errors)
    assert "locked" not in "".join(errors)
    rows, _ = await Calls(sqlite_db, "acme").list(limit=1000)
    assert len(rows) == PROCESSES * TASKS * WRITES + 1
    last = RawEvent(f"p{PROCESSES - 1}-{TASKS - 1}-{WRITES - 1}", "test", "x", None, {}, datetime.now(UTC))
    assert not await Events(sqlite_db, "acme").record(last)
    assert len(await Turns(sqlite_db, "acme").list(call.id)) == 1
    newest = await Agents(sqlite_db, "acme").get("shared")
    assert newest is not None and newest.version == PROCESSES * TASKS * WRITES


async def test_a_reader_inside_a_write_is_not_blocked(sqlite_db: Database) -> None:
    async with sqlite_db.transaction() as session:
        entity = call_entity()
        session.add(entity)
        await session.flush()
        call = entity.id
        assert await Calls(sqlite_db, "acme").get(call) is None
        assert await Jobs(sqlite_db).next_due() is None
    assert await Calls(sqlite_db, "acme").get(call) is not None
    assert await Attempts(sqlite_db, "acme").for_call(call) == []
