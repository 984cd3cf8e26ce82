"""What the commands share: two consoles, errors as messages, the database of the settings."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serve_app.errors import ParleyError
from serve_app.local_endpoints import sqlite_url
from serve_app.settings import load_settings
from serve_app.store.db import Database

T = TypeVar("T")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
_wide = Console(highlight=False, width=10_000)


@contextmanager
def clear_errors() -> Iterator[None]:
    """A ParleyError is a message for the user, not a traceback."""
    try:
        yield
    except ParleyError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
    except OSError as error:
        # Files and folders that the user named, or that PARLEY_DATA_DIR does.
        err.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def with_database(work: Callable[[Database, str], Awaitable[T]]) -> T:
    """`work(db, tenant)` on the configured database, whose schema must be this version's. Raises ParleyError."""
    settings = load_settings()
    db = await Database.connect(settings.database.url or sqlite_url(settings))
    try:
        await db.check_schema()
        return await work(db, settings.tenant)
    finally:
        await db.aclose()


def print_table(table: Table) -> None:
    """Whole, however narrow the terminal is or whatever reads it: an id that is cut short is of no use."""
    _wide.print(table)


def user_name() -> str:
    """Who runs the command, for the record of what it changes."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
