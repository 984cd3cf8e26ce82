"""`parley do-not-call`: the list of the configured tenant, straight in SQL."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Annotated

import typer

from serve_app.cli.common import clear_errors, err, out, user_name, with_database
from serve_app.cli.importing import (
    Delimiter,
    Encoding,
    File,
    Map,
    Preview,
    Region,
    Sheet,
    import_file,
    listed_numbers,
    options_of,
    print_import,
    show_preview,
)
from serve_app.dialing.numbers import parse_e164
from serve_app.errors import ParleyError
from serve_app.store.campaign_models import EVERYBODY
from serve_app.store.campaign_rows import ImportRow
from serve_app.store.db import Database
from serve_app.store.repositories import DoNotCall, DoNotCallRow, Registries

PAGE = 500
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

app = typer.Typer(help="Numbers that are not called: who opted out, and who was listed.", no_args_is_help=True)

Number = Annotated[str, typer.Argument(help="In E.164, for example +12025550123.")]


@app.command("list")
def list_numbers(
    number: Annotated[str | None, typer.Option(help="Only this number.")] = None,
    removed: Annotated[bool, typer.Option("--removed", help="Also what was taken off the list.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="How many, the newest first.")] = 50,
) -> None:
    """Show the list."""
    with clear_errors():
        wanted = None if number is None else parse_e164(number)

        async def read(db: Database, tenant: str) -> tuple[list[DoNotCallRow], str | None]:
            return await DoNotCall(db, tenant).list(limit=limit, number=wanted, removed=removed)

        rows, more = asyncio.run(with_database(read))
        for row in rows:
            out.print(_told(row), markup=False, soft_wrap=True)
        if more is not None:
            err.print(f"there are more than {limit}; see --limit, and GET /api/v1/do-not-call for all of them")


@app.command()
def add(number: Number, reason: Annotated[str, typer.Option(help="Why, for whoever reads the list later.")]) -> None:
    """List a number: from now on no call to it is placed, also none that waits."""
    with clear_errors():
        e164, why = parse_e164(number), _stated(reason)

        async def write(db: Database, tenant: str) -> None:
            await DoNotCall(db, tenant).add(e164, why)

        asyncio.run(with_database(write))
        out.print(f"{e164} is on the do-not-call list")


@app.command()
def remove(
    number: Number, reason: Annotated[str, typer.Option(help="Kept on record: how and when its owner agreed anew.")]
) -> None:
    """Take a number off the list."""
    with clear_errors():
        e164, why = parse_e164(number), _stated(reason)

        async def write(db: Database, tenant: str) -> DoNotCallRow | None:
            return await DoNotCall(db, tenant).remove(e164, reason=why, by=f"cli {user_name()}")

        if asyncio.run(with_database(write)) is None:
            raise ParleyError(f"{e164} is not on the do-not-call list; see `parley do-not-call list`")
        out.print(f"{e164} is no longer on the do-not-call list")


@app.command("import")
def import_numbers(
    file: File,
    region: Region = None,
    mapping: Map = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    sheet: Sheet = None,
    preview: Preview = False,
) -> None:
    """List all numbers of a file; nothing else of it is kept."""
    with clear_errors():
        options = options_of(mapping, region, encoding, delimiter, sheet)
        if preview:
            asyncio.run(show_preview(file, "do_not_call", options))
            return

        async def work(db: Database, tenant: str) -> ImportRow:
            return await import_file(db, tenant, file, "do_not_call", options)

        row = asyncio.run(with_database(work))
        print_import(row)
        if row.status != "completed":
            raise typer.Exit(1)


@app.command()
def registry(
    file: File,
    name: Annotated[str, typer.Option(help="Of the registry: small letters, digits and hyphens.")],
    everybody: Annotated[bool, typer.Option("--everybody", help="For all tenants of this platform.")] = False,
    region: Region = None,
    mapping: Map = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    sheet: Sheet = None,
) -> None:
    """Load a public do-not-call registry, in place of the one of this name; its numbers are not called."""
    with clear_errors():
        if not _REGISTRY.fullmatch(name):
            raise ParleyError(f"--name {name}: up to 64 small letters, digits and hyphens, for example us-national")
        options = options_of(mapping, region, encoding, delimiter, sheet)

        async def work(db: Database, tenant: str) -> dict[str, int]:
            numbers, refused = await listed_numbers(file, options)
            if not numbers:
                raise ParleyError(f"{file}: it holds no number; the registry is left as it is")
            if refused:
                told = ", ".join(f"{rows} {code}" for code, rows in refused.most_common())
                err.print(f"rows that are no number: {told}; `parley do-not-call import --preview` shows some")
            registries = Registries(db, EVERYBODY if everybody else tenant)
            await registries.replace(name, numbers)
            return await registries.sizes()

        for source, size in sorted(asyncio.run(with_database(work)).items()):
            out.print(f"registry {source}: {size} numbers")


def _stated(reason: str) -> str:
    if not reason.strip():
        raise ParleyError("--reason is empty; say why, it is kept with the number")
    return reason.strip()


def _told(row: DoNotCallRow) -> str:
    """Lines, not a table: a number or a reason that is cut to a narrow terminal helps nobody."""
    call = "" if row.call_id is None else f", in call {row.call_id}"
    lines = [f"{row.number:16} {_minute(row.created_at)}  {row.source}{call}: {row.text or '-'}"]
    if row.removed_at is not None:
        lines.append(f"{'':16} {_minute(row.removed_at)}  taken off by {row.removed_by}: {row.removed_reason}")
    return "\n".join(lines)


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
