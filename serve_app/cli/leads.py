"""`parley leads`: the leads of the configured tenant's campaigns, straight in SQL; a running dialer follows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, get_args
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from serve_app.cli.campaign import find_campaign
from serve_app.cli.campaign_input import past_time
from serve_app.cli.common import clear_errors, err, out, print_table, with_database
from serve_app.cli.importing import (
    Delimiter,
    Encoding,
    File,
    Map,
    Preview,
    Region,
    ScrubbedAt,
    Sheet,
    import_file,
    options_of,
    print_import,
    show_preview,
)
from serve_app.cli.lead_log import show_log
from serve_app.clock import SystemClock
from serve_app.dialing.dispositions import Disposition
from serve_app.dialing.imports.export import export_leads, fault_lines
from serve_app.dialing.lead_spec import LeadSpec
from serve_app.dialing.numbers import parse_e164
from serve_app.errors import ParleyError
from serve_app.store.campaign_rows import CampaignRow, ImportRow, LeadRow, LeadState
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.imports import Imports
from serve_app.store.leads import Leads

PAGE = 500

app = typer.Typer(help="Leads of a campaign: import, add, list, export, and what became of one.", no_args_is_help=True)
app.command("log")(show_log)

Campaign = Annotated[str, typer.Option(help="The campaign's name or id.")]
ImportId = Annotated[UUID, typer.Argument(help="The import's id, as `parley leads import` tells it.")]
Out = Annotated[Path | None, typer.Option("--out", help="The file to write; without it, standard output.")]


@app.command("import")
def import_leads(
    file: File,
    campaign: Campaign = "",
    region: Region = None,
    mapping: Map = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    sheet: Sheet = None,
    scrubbed_at: ScrubbedAt = None,
    preview: Preview = False,
) -> None:
    """Import leads from a file. The same file goes into a campaign once; one that was cut off goes on."""
    with clear_errors():
        options = options_of(mapping, region, encoding, delimiter, sheet, scrubbed_at)
        if preview:
            asyncio.run(show_preview(file, "leads", options))
            return
        if not campaign:
            raise ParleyError("--campaign is missing: name the campaign that gets the leads, or ask for --preview")

        async def work(db: Database, tenant: str) -> ImportRow:
            found = await _open_campaign(db, tenant, campaign)
            return await import_file(db, tenant, file, "leads", options, campaign_id=found.id)

        row = asyncio.run(with_database(work))
        print_import(row)
        if row.status != "completed":
            raise typer.Exit(1)


@app.command()
def imports(limit: Annotated[int, typer.Option(min=1, max=PAGE, help="How many, the newest first.")] = 20) -> None:
    """Show imports and how far they are."""
    with clear_errors():

        async def read(db: Database, tenant: str) -> list[ImportRow]:
            return (await Imports(db, tenant).list(limit=limit))[0]

        table = _table("import", "file", "kind", "status", "read", "rows", "accepted")
        for row in asyncio.run(with_database(read)):
            done = f"{min(1.0, row.counts['bytes_read'] / max(1, row.size_bytes)):.0%}"
            cells = (row.kind, row.status, done, str(row.counts["rows"]), str(row.counts["accepted"]))
            table.add_row(row.id, Text(row.filename), *cells)
        print_table(table)


@app.command()
def errors(import_id: ImportId, target: Out = None) -> None:
    """Write why rows of an import were not taken, as CSV: row, column, code, explanation, value."""
    with clear_errors():

        async def work(db: Database, tenant: str) -> None:
            repository = Imports(db, tenant)
            if await repository.get(str(import_id)) is None:
                raise ParleyError(f"there is no import {import_id}; see `parley leads imports`")
            await _write(fault_lines(repository, str(import_id)), target)

        asyncio.run(with_database(work))


@app.command()
def cancel(import_id: ImportId) -> None:
    """Stop an import; the leads that it brought stay."""
    with clear_errors():

        async def work(db: Database, tenant: str) -> ImportRow | None:
            await Imports(db, tenant).cancel(str(import_id))
            return await Imports(db, tenant).get(str(import_id))

        row = asyncio.run(with_database(work))
        if row is None:
            raise ParleyError(f"there is no import {import_id}; see `parley leads imports`")
        print_import(row)


@app.command()
def add(
    number: Annotated[str, typer.Argument(help="In E.164, for example +12025550123.")],
    campaign: Campaign,
    first_name: Annotated[str | None, typer.Option()] = None,
    last_name: Annotated[str | None, typer.Option()] = None,
    email: Annotated[str | None, typer.Option()] = None,
    time_zone: Annotated[str | None, typer.Option(help="An IANA name, such as America/New_York.")] = None,
    region: Annotated[str | None, typer.Option(help="ISO 3166-2, such as US-CA.")] = None,
    priority: Annotated[int, typer.Option(min=1, max=10)] = 5,
    high_value: Annotated[bool, typer.Option("--high-value")] = False,
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, a custom field; repeatable.")] = None,
    consent: Annotated[str | None, typer.Option(help="express, written or transactional.")] = None,
    consent_at: Annotated[str | None, typer.Option(help="With its offset: 2026-01-31T12:00:00Z.")] = None,
    consent_source: Annotated[str, typer.Option(help="Where and how the consent was given.")] = "",
    scrubbed_at: Annotated[
        str | None, typer.Option(help="When the number was compared with the national do-not-call list.")
    ] = None,
) -> None:
    """Add one lead."""
    with clear_errors():
        told = {"kind": consent, "given_at": consent_at, "source": consent_source}
        given: dict[str, Any] = {
            "number": number,
            "first_name": first_name,
            "last_name": last_name,
            "email": email,
            "time_zones": None if time_zone is None else [time_zone],
            "region": region,
            "priority": priority,
            "high_value": high_value,
            "tags": tag or [],
            "custom_fields": _custom_fields(field or []),
            "consent": told if any(told.values()) else None,
            "scrubbed_at": scrubbed_at,
        }
        try:
            lead = LeadSpec.model_validate(given)
        except ValidationError as error:
            item = error.errors()[0]
            remedy = item.get("ctx", {}).get("remedy", "see --help")
            raise ParleyError(f"{'.'.join(map(str, item['loc']))}: {item['msg']}; {remedy}") from error

        if wrong := lead.future_field(SystemClock().now()):
            raise ParleyError(f"{wrong}: it is in the future; check the date and its zone")

        async def work(db: Database, tenant: str) -> bool:
            found = await _open_campaign(db, tenant, campaign)
            return bool(await Leads(db, tenant).add(found.id, [lead.new_lead()]))

        if not asyncio.run(with_database(work)):
            raise ParleyError(f"the campaign has a lead with the number {lead.number}; see `parley leads list`")
        out.print(f"{lead.number} is a lead of {campaign}", markup=False)


@app.command("list")
def list_leads(
    campaign: Campaign,
    state: Annotated[str | None, typer.Option(help=f"One of {', '.join(get_args(LeadState))}.")] = None,
    result: Annotated[str | None, typer.Option(help="Only with this last result, like busy.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only with this reason, like not_scrubbed.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    number: Annotated[str | None, typer.Option(help="Only this number.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="How many, in the order of their arrival.")] = 50,
) -> None:
    """Show leads of a campaign."""
    with clear_errors():
        wanted = next((known for known in get_args(LeadState) if known == state), None)
        if state is not None and wanted is None:
            raise ParleyError(f"--state {state}: not one of {', '.join(get_args(LeadState))}")
        if result is not None and result not in set(Disposition):
            raise ParleyError(f"--result {result}: not one of {', '.join(Disposition)}")
        e164 = None if number is None else parse_e164(number)

        async def read(db: Database, tenant: str) -> tuple[list[LeadRow], str | None]:
            found = await find_campaign(Campaigns(db, tenant), campaign)
            leads = Leads(db, tenant)
            return await leads.list(
                found.id, limit=limit, state=wanted, result=result, reason=reason, tag=tag, number=e164
            )

        rows, more = asyncio.run(with_database(read))
        table = _table("lead", "number", "name", "state", "tries", "result", "reason", "next")
        for row in rows:
            name = " ".join(part for part in (row.first_name, row.last_name) if part)
            tail = (str(row.attempts), row.last_result or "", row.last_reason or "", f"{row.next_at:%Y-%m-%d %H:%M}")
            table.add_row(row.id, row.number, Text(name), row.state, *tail)
        print_table(table)
        if more is not None:
            err.print(f"there are more than {limit}; see --limit, and `parley leads export` for all of them")


@app.command()
def scrubbed(
    campaign: Campaign,
    at: Annotated[str, typer.Option(help="When: 2026-11-20T12:00:00Z. Leads that were added later are not meant.")],
) -> None:
    """Record that a campaign's leads were compared with the national do-not-call list."""
    with clear_errors():
        when = past_time("--at", at)

        async def work(db: Database, tenant: str) -> tuple[int, int]:
            found = await _open_campaign(db, tenant, campaign)
            return await Leads(db, tenant).scrubbed(found.id, when)

        dated, reopened = asyncio.run(with_database(work))
        out.print(f"recorded of {dated} leads; {reopened} that were closed for want of it are ready again")


@app.command()
def delete(lead_id: Annotated[UUID, typer.Argument(help="The lead's id.")]) -> None:
    """Call a lead no more; what was done stays on record."""
    with clear_errors():

        async def work(db: Database, tenant: str) -> bool:
            return await Leads(db, tenant).delete(str(lead_id))

        if not asyncio.run(with_database(work)):
            raise ParleyError(f"there is no lead {lead_id}; see `parley leads list`")
        out.print(f"lead {lead_id} is deleted", soft_wrap=True)


@app.command()
def export(campaign: Campaign, target: Out = None) -> None:
    """Write all leads of a campaign with their results, as CSV for spreadsheets."""
    with clear_errors():

        async def work(db: Database, tenant: str) -> None:
            found = await find_campaign(Campaigns(db, tenant), campaign)
            await _write(export_leads(Leads(db, tenant), found.id), target)

        asyncio.run(with_database(work))


def _custom_fields(entries: Sequence[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise ParleyError(f"--field {entry}: write NAME=VALUE, for example --field company=ACME")
        fields[name] = value
    return fields


async def _open_campaign(db: Database, tenant: str, name: str) -> CampaignRow:
    row = await find_campaign(Campaigns(db, tenant), name)
    if row.status == "cancelled":
        raise ParleyError(f"campaign {row.name} is cancelled and takes no more leads; use another one")
    return row


async def _write(parts: AsyncIterator[bytes], target: Path | None) -> None:
    with ExitStack() as stack:
        sink = sys.stdout.buffer if target is None else stack.enter_context(target.open("wb"))
        async for part in parts:
            sink.write(part)
        sink.flush()
    if target is not None:
        err.print(f"written to {target}", markup=False, soft_wrap=True)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table
