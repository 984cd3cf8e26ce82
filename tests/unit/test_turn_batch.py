"""Turns of several calls and tenants, committed together."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.exc import IntegrityError

from serve_app.conversation.turn_batch import TurnBatch
from serve_app.store.db import Database
from serve_app.store.repositories import Turns
from serve_app.store.rows import TurnRow
from tests.unit.store_fixtures import inbound

pytest_plugins = ("tests.unit.store_fixtures",)


async def a_call(db: Database, tenant: str) -> str:
    return (await inbound(db, tenant, f"carrier-{tenant}")).id


def entry(tenant: str, call_id: str, index: int = 0, text: str = "Hello", **latency: float) -> tuple[str, TurnRow]:
    return tenant, TurnRow(call_id, index, "agent", text, text, 0, 1, False, False, dict(latency))


async def test_each_turn_reaches_its_own_tenants_call(db: Database) -> None:
    calls = {tenant: await a_call(db, tenant) for tenant in ("acme", "globex")}
    batch = TurnBatch(db, group_s=0.05)
    await asyncio.gather(
        batch.put(*entry("acme", calls["acme"], 0, "First", total_ms=700)),
        batch.put(*entry("globex", calls["globex"], 0, "Other")),
        batch.put(*entry("acme", calls["acme"], 1, "Second")),
    )
    await batch.put(*entry("acme", calls["acme"], 0, "First, longer", total_ms=800))
    mine = await Turns(db, "acme").list(calls["acme"])
    assert [(turn.text, turn.latency.get("total_ms")) for turn in mine] == [("First, longer", 800), ("Second", None)]
    assert [turn.text for turn in await Turns(db, "globex").list(calls["globex"])] == ["Other"]
    # Another tenant's call is no call of mine.
    with pytest.raises(IntegrityError):
        await batch.put(*entry("acme", calls["globex"]))


async def test_a_turn_that_cannot_be_stored_spoils_no_other(db: Database) -> None:
    call_id = await a_call(db, "acme")
    batch = TurnBatch(db, group_s=0.05)
    ends = await asyncio.gather(
        batch.put(*entry("acme", call_id, 0)),
        batch.put(*entry("acme", "no-such-call")),
        batch.put(*entry("acme", call_id, 1)),
        return_exceptions=True,
    )
    assert ends[0] is None and ends[2] is None
    assert isinstance(ends[1], IntegrityError)
    assert [turn.index for turn in await Turns(db, "acme").list(call_id)] == [0, 1]


async def test_a_turn_nobody_waits_for_any_more_is_not_written(db: Database) -> None:
    call_id = await a_call(db, "acme")
    batch = TurnBatch(db, group_s=0.05)
    given_up = asyncio.create_task(batch.put(*entry("acme", call_id, 0)))
    await asyncio.sleep(0)
    given_up.cancel()
    await batch.put(*entry("acme", call_id, 1))
    assert [turn.index for turn in await Turns(db, "acme").list(call_id)] == [1]
