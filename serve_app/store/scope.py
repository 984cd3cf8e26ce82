"""The base of the repositories: a database, a tenant, and the few statements that two dialects spell differently."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult, Executable, Insert
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.clock import Clock, SystemClock
from serve_app.store.db import Database
from serve_app.store.models import Base


class TenantScope:
    """Every statement of a subclass carries `self.tenant_id`, which came from a credential, never from a request."""

    def __init__(self, db: Database, tenant_id: str, *, clock: Clock | None = None) -> None:
        if not tenant_id:
            raise ValueError("a repository needs a tenant")
        self.db = db
        self.tenant_id = tenant_id
        self.clock: Clock = clock or SystemClock()


async def changed(session: AsyncSession, statement: Executable) -> int:
    """Execute an UPDATE, DELETE or INSERT and return how many rows it touched."""
    result = await session.execute(statement)
    assert isinstance(result, CursorResult)
    return int(result.rowcount)


def insert_or_ignore(session: AsyncSession, model: type[Base], values: dict[str, Any]) -> Insert:
    """INSERT that does nothing where a unique key exists (0 rows)."""
    if session.get_bind().dialect.name == "sqlite":
        return sqlite_insert(model).values(values).on_conflict_do_nothing()
    return postgresql_insert(model).values(values).on_conflict_do_nothing()


def insert_or_replace(
    session: AsyncSession, model: type[Base], values: dict[str, Any], keys: tuple[str, ...]
) -> Executable:
    """INSERT that overwrites the other columns of the row with the same `keys`."""
    rest = {name: value for name, value in values.items() if name not in keys}
    if session.get_bind().dialect.name == "sqlite":
        return sqlite_insert(model).values(values).on_conflict_do_update(index_elements=keys, set_=rest)
    return postgresql_insert(model).values(values).on_conflict_do_update(index_elements=keys, set_=rest)
