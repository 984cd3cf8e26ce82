"""Migration 0004 keeps the latencies that were measured before it, under the new names."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import Connection

from serve_app.store.db import Database
from serve_app.store.engine import async_url, make_engine, writing
from serve_app.store.migrate import alembic_config, upgrade
from serve_app.store.repositories import Turns

pytest_plugins = ("tests.unit.store_fixtures",)

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
OLD = ("end_of_turn_ms", "llm_first_token_ms", "tts_first_audio_ms", "first_frame_ms", "total_ms")


def _before(connection: Connection) -> None:
    """A call with a complete, a partial and an impossible measurement, as revision 0003 wrote them."""
    command.upgrade(alembic_config(connection), "0003")
    tables = sa.MetaData()
    tables.reflect(connection, only=["calls", "turns", "latency_measurements"])
    key = {"tenant_id": "acme", "call_id": "call-1"}
    call = {"id": "call-1", "tenant_id": "acme", "direction": "outbound", "status": "completed", "metadata": {}}
    numbers = {"from_number": "+12025550100", "to_number": "+12025550123", "agent_name": "a", "agent_version": 1}
    connection.execute(tables.tables["calls"].insert(), {**call, **numbers, "created_at": NOW, "updated_at": NOW})
    measured = [(250.0, 200.1, 150.0, 3.3, 640.5), (None, None, 120.0, 2.0, None), (250.0, 200.0, 150.0, 3.0, 590.0)]
    for index, values in enumerate(measured):
        turn = {"turn_index": index, "role": "agent", "text": "Hi", "heard_text": "Hi", "started_ms": 0, "ended_ms": 1}
        marks = {"approximate": False, "interrupted": False}
        connection.execute(tables.tables["turns"].insert(), {**key, **turn, **marks})
        row = {**key, "turn_index": index, **dict(zip(OLD, values, strict=True)), "created_at": NOW}
        connection.execute(tables.tables["latency_measurements"].insert(), row)


async def _on(url: str, work: object) -> None:
    engine = writing(make_engine(async_url(url), foreign_keys=False))
    async with engine.begin() as connection:
        await connection.run_sync(work)  # type: ignore[arg-type]
    await engine.dispose()


async def test_measurements_are_carried_over(empty_database_url: str) -> None:
    await _on(empty_database_url, _before)
    await asyncio.to_thread(upgrade, empty_database_url)
    db = await Database.connect(empty_database_url)
    try:
        whole, line, odd = [turn.latency for turn in await Turns(db, "acme").list("call-1")]
    finally:
        await db.aclose()
    kept = {"stt_ms": 250.0, "llm_ms": 200.1, "tts_ms": 150.0, "frame_ms": 3.3, "total_ms": 640.5}
    assert {name: whole[name] for name in kept} == kept
    # No stage had the time between token and sentence: it is the rest of the total.
    assert whole["sentence_ms"] == pytest.approx(37.1, abs=0.01)
    assert (whole["confirm_ms"], whole["within_target"]) == (None, None)
    assert (whole["over"], whole["causes"], whole["speculative"]) == ({}, [], False)
    assert (line["tts_ms"], line["sentence_ms"], line["total_ms"]) == (120.0, None, None)
    assert odd["sentence_ms"] == 0.0


async def test_the_way_back_leaves_what_there_was(empty_database_url: str) -> None:
    found: list[tuple[float | None, ...]] = []

    def back(connection: Connection) -> None:
        command.upgrade(alembic_config(connection), "head")
        command.downgrade(alembic_config(connection), "0003")
        table = sa.Table("latency_measurements", sa.MetaData(), autoload_with=connection)
        rows = connection.execute(sa.select(*(table.c[name] for name in OLD)).order_by(table.c.turn_index))
        found.extend(tuple(row) for row in rows)

    await _on(empty_database_url, _before)
    await _on(empty_database_url, back)
    assert found[0] == (250.0, 200.1, 150.0, 3.3, 640.5)
    assert found[1] == (None, None, 120.0, 2.0, None)
