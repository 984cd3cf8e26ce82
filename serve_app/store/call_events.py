"""Raw events that are kept first and folded later: many in one transaction, marked until they are folded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime

from sqlalchemy import select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from serve_app.store.db import Database
from serve_app.store.models import CallEvent
from serve_app.store.rows import RawEvent, to_row

_FIELDS = tuple(field.name for field in fields(RawEvent))


async def keep_all(db: Database, events: Sequence[tuple[str, RawEvent]], *, since: datetime) -> set[tuple[str, str]]:
    """Keep events, each with its tenant, as not folded since; (tenant, dedupe key) of those that were not there.

    Whoever keeps events of several tenants is the platform: every row names its own.
    """
    # Within one statement a key may come once only.
    rows = {(tenant_id, event.dedupe_key): event for tenant_id, event in reversed(events)}
    values = [
        {"tenant_id": tenant_id, "unfolded_since": since, **{name: getattr(event, name) for name in _FIELDS}}
        for (tenant_id, _), event in rows.items()
    ]
    insert = sqlite_insert if db.dialect == "sqlite" else postgresql_insert
    kept = insert(CallEvent).values(values).on_conflict_do_nothing()
    async with db.transaction() as session:
        found = await session.execute(kept.returning(CallEvent.tenant_id, CallEvent.dedupe_key))
        return {(tenant_id, key) for tenant_id, key in found}


async def mark(db: Database, keys: Collection[tuple[str, str]], *, since: datetime | None) -> None:
    """Events, by tenant and dedupe key, are folded (`since` None), or wait since then."""
    if not keys:
        return
    mine = tuple_(CallEvent.tenant_id, CallEvent.dedupe_key).in_(list(keys))
    folded = update(CallEvent).where(mine).values(unfolded_since=since)
    async with db.transaction() as session:
        await session.execute(folded.execution_options(synchronize_session=False))


async def unfolded(db: Database, *, before: datetime, limit: int) -> list[tuple[str, RawEvent]]:
    """Events that wait since before then, each with its tenant, oldest first."""
    query = (
        select(CallEvent)
        .where(CallEvent.unfolded_since.is_not(None), CallEvent.unfolded_since < before)
        .order_by(CallEvent.unfolded_since)
        .limit(limit)
    )
    async with db.session() as session:
        return [(event.tenant_id, to_row(RawEvent, event)) for event in await session.scalars(query)]
