"""The connection to SQL, the truth of the platform: SQLite on one machine, PostgreSQL beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from serve_app.errors import SettingsError, UnavailableError
from serve_app.store.engine import AWAY, async_url, make_engine, reading, shown, writing
from serve_app.store.models import SCHEMA_REVISION


class Database:
    """A pool of connections. Belongs to one event loop; `connect` makes it, `aclose` ends it."""

    def __init__(self, url: URL, engine: AsyncEngine) -> None:
        self._url = url
        self._engine = engine
        self._reading = async_sessionmaker(reading(engine), expire_on_commit=False)
        self._writing = async_sessionmaker(writing(engine), expire_on_commit=False)
        # SQLite's busy wait is a lottery: writers of one process queue here in order instead, and only one per process
        # plays it.
        self._writer = asyncio.Lock() if self.dialect == "sqlite" else None

    @classmethod
    async def connect(cls, url: str, *, connect_timeout_s: float = 5) -> Database:
        """Connect and prove it with a query. Raises UnavailableError naming the URL (without its password)."""
        target = async_url(url)
        engine = make_engine(target, connect_timeout_s=connect_timeout_s)
        try:
            async with asyncio.timeout(connect_timeout_s), engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except AWAY as error:
            await engine.dispose()
            raise UnavailableError(
                f"SQL at {shown(target)} does not answer within {connect_timeout_s:g} s: {_reason(error)}; "
                "check database.url (DATABASE_URL) and that the server runs"
            ) from error
        return cls(target, engine)

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._url.get_backend_name()

    @property
    def engine(self) -> AsyncEngine:
        """For measurements: everything else goes through `session` and `transaction`."""
        return self._engine

    @property
    def url(self) -> str:
        """Without the password."""
        return shown(self._url)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session for reading: every statement sees the database as it is then.

        Raises UnavailableError when the database does not answer.
        """
        with _Away(self._url):
            async with self._reading() as session:
                yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """A writing transaction: committed on leaving, rolled back on an exception; SQLite: BEGIN IMMEDIATE.

        Never wait for anything but this database inside: on SQLite every other writer waits too. Raises
        UnavailableError when the database does not answer.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(_Away(self._url))
            if self._writer is not None:
                await stack.enter_async_context(self._writer)
            yield await stack.enter_async_context(self._writing.begin())

    async def ping(self) -> None:
        """One query. Raises UnavailableError."""
        async with self.session() as session:
            await session.execute(text("SELECT 1"))

    async def check_schema(self) -> None:
        """Raises SettingsError with the remedy unless the schema is the one of this version.

        Without Alembic, whose import costs every process of the platform half a second.
        """
        try:
            async with self.session() as session:
                revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
        except (UnavailableError, DBAPIError):
            await self.ping()
            revision = None  # the server answers: the table is missing
        if revision != SCHEMA_REVISION:
            raise SettingsError(
                f"the database at {self.url} is at revision {revision or 'none'}, this version needs "
                f"{SCHEMA_REVISION}; run `parley db upgrade`"
            )

    async def aclose(self) -> None:
        await self._engine.dispose()


class _Away:
    """Turns the driver's connection failures into UnavailableError."""

    def __init__(self, url: URL) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, AWAY):
            raise UnavailableError(f"SQL at {shown(self._url)} does not answer: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return str(cause) or type(cause).__name__
