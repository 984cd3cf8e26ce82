"""Importing a file and watching how it goes: for leads and for the do-not-call list.

The import is a job like any other. A platform that runs may do it; if none does, or is busy, this process does.
"""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from serve_app.cli.campaign_input import past_time
from serve_app.cli.common import err, out, print_table
from serve_app.clock import SystemClock
from serve_app.dialing.imports.header import targets_of
from serve_app.dialing.imports.intake import ImportOptions, ReadyFile, create_import, make_ready, numbers_of, preview
from serve_app.dialing.imports.reasons import NOTES, REASONS
from serve_app.errors import ParleyError, SettingsError
from serve_app.jobs.import_file import ImportFile
from serve_app.jobs.runner import JobRunner
from serve_app.settings import load_settings
from serve_app.store.campaign_rows import ImportRow
from serve_app.store.db import Database
from serve_app.store.imports import IMPORT_FILE, ImportKind, Imports
from serve_app.store.objects import ObjectStore

POLL_S = 0.3
_QUIET_S = 15.0
_OVER = ("completed", "failed", "cancelled")

File = Annotated[
    Path, typer.Argument(help="CSV in any encoding, or an Excel workbook (.xlsx).", exists=True, dir_okay=False)
]
Map = Annotated[
    list[str] | None,
    typer.Option("--map", help="HEADER=FIELD for a column that is not guessed right; FIELD may be custom or ignore."),
]
Region = Annotated[
    str | None, typer.Option(help="Two letters, such as US: where numbers without a country code are at home.")
]
Encoding = Annotated[str | None, typer.Option(help="Without it, found out.")]
Delimiter = Annotated[str | None, typer.Option(help="Without it, found out.")]
Sheet = Annotated[str | None, typer.Option(help="Of a workbook; without it, the first.")]
ScrubbedAt = Annotated[
    str | None,
    typer.Option(help="When all its numbers were compared with the national do-not-call list: 2026-11-20T12:00:00Z."),
]
Preview = Annotated[bool, typer.Option("--preview", help="Show how the first rows would be read, and stop.")]


def options_of(
    mapping: Sequence[str] | None,
    region: str | None,
    encoding: str | None,
    delimiter: str | None,
    sheet: str | None,
    scrubbed_at: str | None = None,
) -> ImportOptions:
    """Raises ParleyError for a --map or a --scrubbed-at that is none."""
    told: dict[str, str] = {}
    for entry in mapping or ():
        header, _, field = entry.rpartition("=")
        if not header or not field:
            raise ParleyError(f"--map {entry}: write HEADER=FIELD, for example --map 'Tel 2=number'")
        told[header] = field
    delimiter = "\t" if delimiter in ("\\t", "tab") else delimiter
    scrubbed = None if scrubbed_at is None else past_time("--scrubbed-at", scrubbed_at)
    return ImportOptions(told, region.upper() if region else None, encoding, delimiter, sheet, scrubbed)


async def show_preview(file: Path, kind: ImportKind, options: ImportOptions) -> None:
    """Nothing is written. Raises ImportRefused."""
    with tempfile.TemporaryDirectory(prefix="parley-import-") as folder:
        ready = await _ready(file, Path(folder), kind, options)
        result = preview(ready, SystemClock().now())
    header = "a header" if ready.columns.has_header else "no header"
    out.print(f"{ready.form.encoding}, delimiter {ready.form.delimiter!r}, {header}", markup=False)
    columns = Table(box=None, pad_edge=False)
    columns.add_column("column")
    columns.add_column("is read as")
    for name, target in ready.columns.targets().items():
        columns.add_row(Text(name), target)
    print_table(columns)
    rows: dict[int, tuple[Text, Text]] = {}
    for lead in result.accepted:
        told = {name: value for name, value in lead.shown().items() if name != "number"}
        rows[lead.row_no] = Text(lead.number), Text(json.dumps(told, ensure_ascii=False))
    for fault in result.faults:
        rows[fault.row_no] = Text(fault.value), Text(f"{fault.code}: {REASONS[fault.code]}", style="red")
    table = Table(box=None, pad_edge=False)
    for title in ("row", "number", "what is read"):
        table.add_column(title, no_wrap=title != "what is read")
    for row_no in sorted(rows):
        table.add_row(str(row_no), *rows[row_no])
    print_table(table)


async def import_file(
    db: Database, tenant: str, file: Path, kind: ImportKind, options: ImportOptions, *, campaign_id: str | None = None
) -> ImportRow:
    """Import a file, show its progress, and return how it ended. Raises ImportRefused, UnavailableError."""
    settings = load_settings()
    objects = ObjectStore.open(settings.objects.url, settings.data_dir.expanduser().resolve())
    imports = Imports(db, tenant)
    with tempfile.TemporaryDirectory(prefix="parley-import-") as folder:
        ready = await _ready(file, Path(folder), kind, options)
        row, new = await create_import(imports, objects, ready, campaign_id=campaign_id, filename=file.name)
    if not new:
        out.print(f"this file was sent before; it is import {row.id}", soft_wrap=True)
    runner = JobRunner(db, {IMPORT_FILE: ImportFile(db, objects)})
    running = asyncio.create_task(runner.run())
    try:
        return await _watched(imports, row, running)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def listed_numbers(file: Path, options: ImportOptions) -> tuple[set[str], Counter[str]]:
    """All numbers of a do-not-call list, and why rows are none: code -> rows. Raises ImportRefused."""
    with tempfile.TemporaryDirectory(prefix="parley-import-") as folder:
        ready = await _ready(file, Path(folder), "do_not_call", options)
        return numbers_of(ready, SystemClock().now())


def print_import(row: ImportRow) -> None:
    """Status and counts: they add up to the rows of the file."""
    counts = row.counts
    out.print(f"import {row.id} of {row.filename} is {row.status}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_row(str(counts["rows"]), "rows", "")
    table.add_row(str(counts["accepted"]), "accepted", "")
    table.add_row(str(counts["blank"]), "blank", "")
    for code, rows in sorted(counts["refused"].items(), key=lambda item: -item[1]):
        table.add_row(str(rows), f"refused: {code}", REASONS.get(code, ""))
    for code, rows in counts["notes"].items():
        table.add_row(str(rows), f"of the accepted: {code}", NOTES.get(code, ""))
    print_table(table)
    ignored = [name for name, target in _targets(row).items() if target == "ignore"]
    if ignored:
        out.print(f"columns that were left out: {', '.join(ignored)}", markup=False)
    if row.error:
        err.print(Text(row.error, style="red"))
    if counts["refused"]:
        out.print(f"which rows: parley leads errors {row.id}", soft_wrap=True)


def _targets(row: ImportRow) -> dict[str, str]:
    return targets_of(row.mapping["names"], row.mapping["fields"], row.mapping["custom"])


async def _ready(file: Path, folder: Path, kind: ImportKind, options: ImportOptions) -> ReadyFile:
    # A workbook becomes a text file beside it, which must not be in the user's folder.
    link = folder / "file"
    link.symlink_to(await asyncio.to_thread(file.resolve))
    return await make_ready(link, kind, options)


async def _watched(imports: Imports, row: ImportRow, running: asyncio.Task[None]) -> ImportRow:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TextColumn("{task.fields[rows]} rows"), console=err, transient=True) as progress:
        task = progress.add_task(row.status, total=row.size_bytes, rows=0)
        quiet_s = 0.0
        while row.status not in _OVER:
            await asyncio.wait({running}, timeout=POLL_S)
            quiet_s += POLL_S
            if quiet_s > _QUIET_S:
                err.print("another process has it; should it have died, this one goes on within five minutes")
                quiet_s = -math.inf
            if running.done():
                running.result()
            found = await imports.get(row.id)
            if found is None:
                raise SettingsError(f"import {row.id} was deleted while it ran")
            if found.counts != row.counts:
                quiet_s = 0.0
            row = found
            counts = row.counts
            progress.update(task, description=row.status, completed=counts["bytes_read"], rows=counts["rows"])
    return row
