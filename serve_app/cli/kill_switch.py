"""`parley kill-switch`: stop calls at once, straight in SQL; the next request that would leave does not."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from serve_app.cli.campaign import find_campaign
from serve_app.cli.common import clear_errors, out, print_table, user_name, with_database
from serve_app.dialing.numbers import parse_e164
from serve_app.errors import ParleyError
from serve_app.store.campaign_models import EVERYBODY
from serve_app.store.campaign_rows import SwitchRow, SwitchScope
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.repositories import KillSwitches

app = typer.Typer(help="Stop calls at once: to a number, of a campaign, of the tenant, or all.", no_args_is_help=True)

Number = Annotated[str | None, typer.Option(help="Calls to this number, in E.164.")]
Campaign = Annotated[str | None, typer.Option(help="Calls of this campaign: its name or id.")]
Tenant = Annotated[bool, typer.Option("--tenant", help="All calls of the configured tenant.")]
Everything = Annotated[bool, typer.Option("--everything", help="All calls of all tenants of this platform.")]


@app.command()
def on(
    reason: Annotated[str, typer.Option(help="Why, for whoever wants to lift it.")],
    number: Number = None,
    campaign: Campaign = None,
    tenant: Tenant = False,
    everything: Everything = False,
) -> None:
    """Place no such call from this moment on. Calls that ring or talk go on."""
    with clear_errors():
        if not reason.strip():
            raise ParleyError("--reason is empty; say why, it is kept with the switch")

        async def write(db: Database, name: str) -> SwitchRow:
            switches, scope, key = await _switch(db, name, number, campaign, tenant, everything)
            return await switches.on(scope, key, reason=reason, by=f"cli {user_name()}")

        row = asyncio.run(with_database(write))
        out.print(f"switched off since {row.on_at:%Y-%m-%d %H:%M} UTC: {row.scope} {row.key}", markup=False)


@app.command()
def off(
    number: Number = None, campaign: Campaign = None, tenant: Tenant = False, everything: Everything = False
) -> None:
    """Allow such calls again."""
    with clear_errors():

        async def write(db: Database, name: str) -> SwitchRow | None:
            switches, scope, key = await _switch(db, name, number, campaign, tenant, everything)
            return await switches.off(scope, key, by=f"cli {user_name()}")

        row = asyncio.run(with_database(write))
        if row is None:
            raise ParleyError("no such switch is on; see `parley kill-switch list`")
        out.print(f"allowed again: {row.scope} {row.key}", markup=False)


@app.command("list")
def list_switches(
    lifted: Annotated[bool, typer.Option("--lifted", help="Also those that were lifted.")] = False,
) -> None:
    """Show the switches of the configured tenant and those of the platform."""
    with clear_errors():

        async def read(db: Database, name: str) -> list[SwitchRow]:
            own = await KillSwitches(db, name).list(lifted=lifted)
            return await KillSwitches(db, EVERYBODY).list(lifted=lifted) + own

        table = Table(box=None, pad_edge=False)
        for title in ("scope", "of", "since", "by", "why", *(("lifted",) if lifted else ())):
            table.add_column(title, no_wrap=title != "why")
        for row in asyncio.run(with_database(read)):
            off_at = "" if row.off_at is None else f"{row.off_at:%Y-%m-%d %H:%M} {row.off_by}"
            cells = [row.scope, row.key, f"{row.on_at:%Y-%m-%d %H:%M}", row.on_by, row.reason, off_at]
            table.add_row(*(Text(cell) for cell in cells[: 6 if lifted else 5]))
        print_table(table)


async def _switch(
    db: Database, name: str, number: str | None, campaign: str | None, tenant: bool, everything: bool
) -> tuple[KillSwitches, SwitchScope, str]:
    if sum((number is not None, campaign is not None, tenant, everything)) != 1:
        raise ParleyError("name one of --number, --campaign, --tenant and --everything")
    if everything:
        return KillSwitches(db, EVERYBODY), "global", ""
    own = KillSwitches(db, name)
    if number is not None:
        return own, "number", parse_e164(number)
    if campaign is not None:
        return own, "campaign", (await find_campaign(Campaigns(db, name), campaign)).id
    return own, "tenant", ""
