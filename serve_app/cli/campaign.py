"""`parley campaign`: campaigns of the configured tenant, straight in SQL; a running dialer follows within seconds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer
import yaml
from rich.table import Table
from rich.text import Text

from serve_app.cli.campaign_input import campaign_spec, campaign_status, utc_time
from serve_app.cli.client import ApiClient, api_key
from serve_app.cli.common import clear_errors, err, out, print_table, with_database
from serve_app.cli.platform import probe
from serve_app.dialing.campaign_report import capacity_of, report_of
from serve_app.dialing.campaign_spec import CampaignSpec, stored
from serve_app.dialing.plans import shipped_plans
from serve_app.errors import ParleyError
from serve_app.settings import load_settings
from serve_app.store.campaign_rows import CampaignRow, TenantRow
from serve_app.store.campaigns import CampaignNameTaken, Campaigns, CampaignStateConflict, CampaignStats
from serve_app.store.db import Database
from serve_app.store.repositories import AgentAttemptRow, Agents, Leads, Tenants

PAGE = 500

app = typer.Typer(help="Campaigns: who is to be called, and whether they are being called.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The campaign's name, or its id.")]
Limit = Annotated[int, typer.Option(min=1, max=PAGE, help="How many, the newest first.")]
Moved = tuple[CampaignRow, bool] | None


@app.command()
def create(
    file: Annotated[Path, typer.Argument(help="A YAML file with the fields of one campaign.", exists=True)],
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
) -> None:
    """Write down a campaign. It is a draft until it is started."""
    with clear_errors():
        spec = campaign_spec(file)

        async def write(db: Database, tenant: str) -> CampaignRow:
            if await Agents(db, tenant).get(spec.agent, spec.agent_version) is None:
                which = f" version {spec.agent_version}" if spec.agent_version is not None else ""
                raise ParleyError(f"agent: there is no agent {spec.agent}{which}; see `parley agent apply`")
            try:
                return await Campaigns(db, tenant).create(**stored(spec))
            except CampaignNameTaken as error:
                raise ParleyError(f"name: {error}; choose another") from error

        row = asyncio.run(with_database(write))
        out.print(f"campaign {row.name} is a draft ({row.id})", markup=False)
        if start:
            _move(row.id, lambda campaigns, found: campaigns.start(found))


@app.command()
def start(name: Name) -> None:
    """Call its leads from now on. One that runs goes on as it is."""
    with clear_errors():
        _move(name, lambda campaigns, found: campaigns.start(found))


@app.command()
def pause(name: Name) -> None:
    """Place no more calls from this moment on. Those that ring or talk go on."""
    with clear_errors():
        _move(name, lambda campaigns, found: campaigns.pause(found))


@app.command()
def resume(name: Name) -> None:
    """Go on with a paused campaign."""
    with clear_errors():
        _move(name, lambda campaigns, found: campaigns.resume(found))


@app.command()
def schedule(
    name: Name,
    at: Annotated[str, typer.Option(help="With its offset: 2027-01-11T09:00:00-05:00; `never`: a draft again.")],
) -> None:
    """Start it at a time; again for another time."""
    with clear_errors():
        if at == "never":
            _move(name, lambda campaigns, found: campaigns.unschedule(found))
            return
        when = utc_time("--at", at)
        _move(name, lambda campaigns, found: campaigns.schedule(found, when))


@app.command()
def stop(
    name: Name,
    end_live_calls: Annotated[
        bool, typer.Option("--end-live-calls", help="Also hang up the calls that ring or talk; asks the platform.")
    ] = False,
) -> None:
    """Stop it for good."""
    with clear_errors():
        row = _move(name, lambda campaigns, found: campaigns.cancel(found))
        if end_live_calls:
            answer = asyncio.run(_end_live_calls(row.id))
            out.print(f"{answer['ended_calls']} live calls were told to end")
            if answer["live_calls"]:
                err.print(f"{answer['live_calls']} could not be reached at this moment; run the command again")
                raise typer.Exit(1)


@app.command()
def stats(name: Name) -> None:
    """Where its leads stand, what came of the attempts, and, while the platform runs, how long a pass takes."""
    with clear_errors():

        async def read(db: Database, tenant: str) -> tuple[CampaignRow, CampaignStats, TenantRow | None]:
            campaigns = Campaigns(db, tenant)
            row = await find_campaign(campaigns, name)
            return row, await campaigns.stats(row.id), await Tenants(db, tenant).get()

        row, counts, tenant = asyncio.run(with_database(read))
        url, network = _platform_url(), load_settings().telephony.vonage
        sessions = ((probe(url, timeout_s=5) or {}).get("capacity") or {}).get("slots")
        if sessions is None:
            err.print(f"no platform answers at {url} (PARLEY_URL): how long a pass takes is not known", soft_wrap=True)
            report = report_of(counts)
        else:
            report = report_of(counts, capacity_of(row, tenant, shipped_plans(), network, sessions))
        out.print(f"{row.name}: {row.status}", markup=False)
        print_table(_counts("leads", report.leads))
        print_table(_counts("attempts", report.results))
        figures = report.model_dump(exclude={"leads", "results", "cost"})
        figures |= {f"cost, {currency}": amount for currency, amount in report.cost.items()}
        print_table(_counts("figures", {key: value for key, value in figures.items() if value is not None}))


@app.command()
def reopen(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="All leads that were closed for it, like not_scrubbed.")] = None,
    lead: Annotated[str | None, typer.Option(help="One lead: its id.")] = None,
) -> None:
    """Make closed leads ready again; the calling rules decide anew."""
    with clear_errors():
        if (reason is None) == (lead is None):
            raise ParleyError("name either --reason or --lead")

        async def write(db: Database, tenant: str) -> int:
            row = await find_campaign(Campaigns(db, tenant), name)
            return await Leads(db, tenant).reopen(row.id, lead_id=lead, reason=reason)

        out.print(f"{asyncio.run(with_database(write))} leads are ready again")


@app.command("list")
def list_campaigns(
    status: Annotated[str | None, typer.Option(help="Only those: draft, scheduled, running, paused, ...")] = None,
    limit: Limit = 50,
) -> None:
    """Show the campaigns."""
    with clear_errors():
        wanted = campaign_status(status)

        async def read(db: Database, tenant: str) -> tuple[list[CampaignRow], str | None]:
            return await Campaigns(db, tenant).list(limit=limit, status=wanted)

        rows, more = asyncio.run(with_database(read))
        table = _table("name", "status", "agent", "created", "starts", "id")
        for row in rows:
            table.add_row(
                Text(row.name), row.status, row.agent_name, _at(row.created_at), _at(row.scheduled_at), row.id
            )
        print_table(table)
        _tell_more(more, limit)


@app.command()
def show(name: Name) -> None:
    """Show one campaign with its rules, as a YAML file that `create` would take under another name."""
    with clear_errors():

        async def read(db: Database, tenant: str) -> CampaignRow:
            return await find_campaign(Campaigns(db, tenant), name)

        row = asyncio.run(with_database(read))
        err.print(f"{row.status}, {row.id}")
        fields = {field: getattr(row, field) for field in CampaignSpec.model_fields if field != "agent"}
        written = {"name": row.name, "agent": row.agent_name} | {k: v for k, v in fields.items() if v not in (None, "")}
        out.print(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), end="", markup=False)


@app.command()
def jobs(
    name: Name,
    live: Annotated[bool, typer.Option("--live", help="Only attempts that have not ended.")] = False,
    limit: Limit = 50,
) -> None:
    """Show its attempts: who was called when, and what came of it."""
    with clear_errors():

        async def read(db: Database, tenant: str) -> tuple[list[AgentAttemptRow], str | None]:
            campaigns = Campaigns(db, tenant)
            return await campaigns.attempts((await find_campaign(campaigns, name)).id, limit=limit, live=live)

        rows, more = asyncio.run(with_database(read))
        table = _table("number", "n", "status", "result", "placed", "agent", "cost", "call", "detail")
        for row in rows:
            result = row.result or row.disposition or ""
            table.add_row(
                row.to_number,
                str(row.number_in_lead or ""),
                row.status,
                result,
                _at(row.placing_at),
                f"{row.agent_name} {row.agent_version}",
                "" if row.cost is None else f"{row.cost.amount} {row.cost.currency}",
                row.call_id,
                Text(row.detail or ""),
            )
        print_table(table)
        _tell_more(more, limit)


def _move(name: str, step: Callable[[Campaigns, str], Awaitable[Moved]]) -> CampaignRow:
    async def move(db: Database, tenant: str) -> tuple[CampaignRow, bool]:
        campaigns = Campaigns(db, tenant)
        row = await find_campaign(campaigns, name)
        try:
            moved = await step(campaigns, row.id)
        except CampaignStateConflict as error:
            raise ParleyError(f"{row.name}: {error}") from error
        if moved is None:
            raise _no_campaign(name)
        return moved

    row, changed = asyncio.run(with_database(move))
    when = f" at {row.scheduled_at:%Y-%m-%d %H:%M} UTC" if row.status == "scheduled" and row.scheduled_at else ""
    out.print(f"campaign {row.name} is {row.status}{when}{'' if changed else ' already'}", markup=False)
    return row


async def find_campaign(campaigns: Campaigns, name: str) -> CampaignRow:
    """By name, or by id. Raises ParleyError."""
    row = await campaigns.by_name(name) or await campaigns.get(name)
    if row is None:
        raise _no_campaign(name)
    return row


def _no_campaign(name: str) -> ParleyError:
    return ParleyError(f"there is no campaign {name}; see `parley campaign list`")


async def _end_live_calls(campaign_id: str) -> dict[str, Any]:
    async with ApiClient(_platform_url(), await api_key()) as api:
        return await api.post(f"/api/v1/campaigns/{quote(campaign_id, safe='')}/stop", {"end_live_calls": True})


def _platform_url() -> str:
    return os.environ.get("PARLEY_URL", "").rstrip("/") or load_settings().public_url


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title != "detail")
    return table


def _counts(title: str, counts: dict[str, Any]) -> Table:
    table = _table(title, "")
    for word, count in sorted(counts.items()):
        table.add_row(word.replace("_", " "), str(count))
    return table


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"


def _tell_more(cursor: str | None, limit: int) -> None:
    if cursor is not None:
        err.print(f"there are more than {limit}; see --limit")
