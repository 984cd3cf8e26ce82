"""The base of the repositories: a database, a tenant, and the few statements that two dialects spell differently."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, Executable, Insert, Table, bindparam, case, literal
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from serve_app.clock import Clock, SystemClock
from serve_app.store.base import Base, UtcDateTime
from serve_app.store.db import Database


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


def earliest(column: InstrumentedAttribute[datetime | None], at: datetime) -> ColumnElement[datetime | None]:
    """The earlier of a column and a moment; the moment where the column is NULL."""
    moment = literal(at, UtcDateTime())
    return case((column <= moment, column), else_=moment)


@functools.cache
def upsert(model: type[Base], columns: tuple[str, ...], keys: tuple[str, ...], dialect: str) -> Executable:
    """INSERT of `columns` that overwrites the others where a row has the same `keys`: for one row or many.

    Made once and without the mapper: execute it on the session's connection. It runs for every turn of every call.
    """
    table = cast(Table, model.__table__)
    insert = (sqlite_insert if dialect == "sqlite" else postgresql_insert)(table)
    rest = {name: insert.excluded[name] for name in columns if name not in keys}
    return insert.values({name: bindparam(name) for name in columns}).on_conflict_do_update(
        index_elements=keys, set_=rest
    )
