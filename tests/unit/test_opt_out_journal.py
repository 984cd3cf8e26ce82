"""An opt-out that SQL does not take at once is parked in Redis, tried again, and never lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.lease import CallLease
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.errors import UnavailableError
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.live import LiveState
from serve_app.store.parked_opt_outs import KEY, HeardOptOut, ParkedOptOuts, write_parked
from serve_app.store.repositories import CallRow, Calls
from tests.unit.api_support import AGENT
from tests.unit.store_fixtures import NUMBER, inbound, outbound

pytest_plugins = ("tests.unit.store_fixtures",)


def lease_of(call: CallRow) -> CallLease:
    return CallLease.model_validate(
        {
            "call_id": call.id,
            "tenant_id": call.tenant_id,
            "direction": call.direction,
            "carrier_call_id": "carrier-1",
            "from_number": call.from_number,
            "to_number": call.to_number,
            "agent": AgentDefinition.model_validate(AGENT),
            "agent_version": 1,
            "slot_id": call.id,
        }
    )


async def opted_out(db: Database, call: CallRow) -> bool:
    row = await Calls(db, call.tenant_id).get(call.id)
    assert row is not None
    assert (row.opted_out_at is not None) == await DoNotCall(db, call.tenant_id).contains(NUMBER)
    return row.opted_out_at is not None


class Outage:
    """SQL that is away until it is told to come back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on = True
        self.tries = 0
        write = HeardOptOut.write

        async def written(heard: HeardOptOut, db: Database) -> None:
            self.tries += 1
            if self.on:
                raise UnavailableError("SQL is away")
            await write(heard, db)

        monkeypatch.setattr(HeardOptOut, "write", written)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("direction", ["outbound", "inbound"])
async def test_the_callee_of_either_direction_is_listed(sqlite_db: Database, live: LiveState, direction: str) -> None:
    call = (await outbound(sqlite_db))[0] if direction == "outbound" else await inbound(sqlite_db)
    await SqlJournal(sqlite_db, live).opt_out(lease_of(call), "phrase", "never call me again")
    assert await opted_out(sqlite_db, call)
    assert not await live.client.exists(KEY)


async def test_while_sql_is_away_it_is_parked_and_then_written_though_nobody_waits_any_more(
    sqlite_db: Database, live: LiveState, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = await outbound(sqlite_db)
    outage = Outage(monkeypatch)
    journal = SqlJournal(sqlite_db, live)
    waiting = asyncio.create_task(journal.opt_out(lease_of(call), "key", "9"))

    async def parked() -> bool:
        return len(await ParkedOptOuts(live).all()) == 1

    await until(parked)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not await opted_out(sqlite_db, call)
    outage.on = False

    async def unparked() -> bool:
        return not await parked()

    await until(unparked)
    assert await opted_out(sqlite_db, call)


async def test_what_a_process_left_parked_is_written_by_a_worker(sqlite_db: Database, live: LiveState) -> None:
    call, _ = await outbound(sqlite_db)
    heard = HeardOptOut("acme", call.id, NUMBER, "model", "leave me alone", datetime.now(UTC))
    await ParkedOptOuts(live).put(heard)
    await live.client.hset(KEY, "another", "{}")
    assert await write_parked(sqlite_db, live) == 1
    assert await opted_out(sqlite_db, call)
    assert await live.client.hkeys(KEY) == ["another"], "what cannot be read is kept for a person"
    assert await write_parked(sqlite_db, live) == 0


async def test_without_redis_either_it_is_tried_until_sql_is_back(
    sqlite_db: Database, live: LiveState, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = await outbound(sqlite_db)
    outage = Outage(monkeypatch)

    async def gone(*_: object) -> None:
        raise UnavailableError("Redis is away")

    monkeypatch.setattr(ParkedOptOuts, "put", gone)
    waiting = asyncio.create_task(SqlJournal(sqlite_db, live).opt_out(lease_of(call), "key", "9"))

    async def tried_twice() -> bool:
        return outage.tries >= 2

    await until(tried_twice)
    assert not waiting.done()
    outage.on = False
    await waiting
    assert await opted_out(sqlite_db, call)


def test_the_writer_tries_until_the_journal_takes_it_and_other_entries_do_not_wait() -> None:
    async def main() -> None:
        memory = Memory(broken=True)
        writer = JournalWriter(memory, LEASE)
        running = asyncio.create_task(writer.run())
        writer.opt_out("phrase", "stop calling me")
        writer.opt_out("model", "and again")
        await asyncio.sleep(60)
        memory.broken = False
        writer.started(datetime.now(UTC))
        await asyncio.sleep(0.001)
        assert memory.starts == 1
        writer.close()
        await running
        assert memory.opt_outs == [("phrase", "stop calling me")]

    run_virtual(main())


def test_a_writer_that_is_given_up_stops_trying() -> None:
    async def main() -> None:
        memory = Memory(broken=True)
        writer = JournalWriter(memory, LEASE)
        running = asyncio.create_task(writer.run())
        writer.opt_out("key", "9")
        writer.close()
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        memory.broken = False
        await asyncio.sleep(60)
        assert memory.opt_outs == []

    run_virtual(main())


LEASE = CallLease.model_validate(
    {
        "call_id": "c1",
        "tenant_id": "acme",
        "direction": "outbound",
        "carrier_call_id": "carrier-1",
        "from_number": "+12025550100",
        "to_number": NUMBER,
        "agent": AgentDefinition.model_validate(AGENT),
        "agent_version": 1,
        "slot_id": "a1",
    }
)
