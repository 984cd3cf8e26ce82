"""`parley number`: the numbers that the configured tenant calls from, straight in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from serve_app.cli.campaign_input import utc_time
from serve_app.cli.common import clear_errors, out, print_table, with_database
from serve_app.clock import SystemClock
from serve_app.dialing.number_rest import RESTED
from serve_app.dialing.number_spec import NumberSpec
from serve_app.dialing.numbers import parse_e164
from serve_app.errors import ParleyError
from serve_app.store.campaign_rows import NumberRow
from serve_app.store.db import Database
from serve_app.store.numbers import DAILY_CAP, DEFAULT_POOL, NumberTaken
from serve_app.store.repositories import Agents, Numbers

app = typer.Typer(help="The numbers that campaigns call from, in pools.", no_args_is_help=True)

Number = Annotated[str, typer.Argument(help="In E.164, for example +12025550100.")]
Reason = Annotated[str, typer.Option(help="Why, for whoever looks at it later.")]


@app.command()
def add(
    number: Number,
    pool: Annotated[str, typer.Option(help="Campaigns name one as their number_pool.")] = DEFAULT_POOL,
    region: Annotated[
        str | None, typer.Option(help="ISO 3166-2, such as US-CA: leads of that region are called from it first.")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="Who answers it. Default: the agent of the settings.")] = None,
    daily_cap: Annotated[int, typer.Option(help="Calls in 24 hours.")] = DAILY_CAP,
    warmup_from: Annotated[
        str | None, typer.Option(help="A new number: from then on the cap grows from a fifth to the whole in 14 days.")
    ] = None,
    attestation: Annotated[str | None, typer.Option(help="Of STIR/SHAKEN, for the record: A, B or C.")] = None,
) -> None:
    """Add a number, or say anew what it is for: all of it, what is left out has its default.

    The account of the phone network must have it.
    """
    with clear_errors():
        e164 = parse_e164(number)
        from_then = None if warmup_from is None else utc_time("--warmup-from", warmup_from)
        given = {"pool": pool, "region": region, "agent": agent, "daily_cap": daily_cap, "attestation": attestation}
        settings = _spec(given | {"warmup_from": from_then}).model_dump(exclude={"agent"})

        async def write(db: Database, tenant: str) -> NumberRow:
            if agent is not None and await Agents(db, tenant).get(agent) is None:
                raise ParleyError(f"--agent {agent}: there is no such agent; see `parley agent apply`")
            return await Numbers(db, tenant).put(e164, agent_name=agent, **settings)

        row = _ask(write)
        out.print(f"{row.e164} is {row.state} in pool {row.pool}, at most {row.daily_cap} calls in 24 hours")
        if row.state != "active":
            out.print(f"`parley number activate {row.e164}` lets it call again")


@app.command("list")
def list_numbers(pool: Annotated[str | None, typer.Option(help="Only those of this pool.")] = None) -> None:
    """Show them all, retired ones included."""
    with clear_errors():

        async def read(db: Database, tenant: str) -> list[NumberRow]:
            return await Numbers(db, tenant).list(pool=pool)

        table = Table(box=None, pad_edge=False)
        for title in ("number", "pool", "state", "until", "cap", "region", "agent", "warm-up from", "why"):
            table.add_column(title, no_wrap=title != "why")
        for row in asyncio.run(with_database(read)):
            cells = (row.e164, row.pool, row.state, _at(row.cool_until), str(row.daily_cap), row.region)
            table.add_row(
                *(Text(cell or "") for cell in (*cells, row.agent_name, _at(row.warmup_from), row.state_reason))
            )
        print_table(table)


@app.command()
def rest(
    number: Number,
    until: Annotated[str, typer.Option(help="Until when, with its offset: 2027-01-11T09:00:00-05:00.")],
    reason: Reason,
) -> None:
    """Call from it no more until a time. Who calls it back is answered."""
    with clear_errors():
        end, why = utc_time("--until", until), _stated(reason)
        if end <= SystemClock().now():
            raise ParleyError(f"--until {until}: it is not in the future; check the date and its zone")
        row = _change(number, lambda own, e164: own.set_state(e164, "cooling", reason=why, cool_until=end))
        out.print(f"{row.e164} rests until {_at(row.cool_until)} UTC")


@app.command()
def retire(number: Number, reason: Reason) -> None:
    """Call from it no more. Its record stays."""
    with clear_errors():
        why = _stated(reason)
        row = _change(number, lambda own, e164: own.set_state(e164, "retired", reason=why))
        out.print(f"{row.e164} is retired")


@app.command()
def activate(number: Number) -> None:
    """Call again from one that rests or is retired. Its earlier calls no longer count against it."""
    with clear_errors():
        row = _change(number, lambda own, e164: own.set_state(e164, "active", reason=RESTED))
        out.print(f"{row.e164} is active")


def _change(number: str, step: Callable[[Numbers, str], Awaitable[NumberRow | None]]) -> NumberRow:
    e164 = parse_e164(number)

    async def write(db: Database, tenant: str) -> NumberRow:
        row = await step(Numbers(db, tenant), e164)
        if row is None:
            raise ParleyError(f"{e164} is no number of the configured tenant; see `parley number list`")
        return row

    return _ask(write)


def _ask(write: Callable[[Database, str], Awaitable[NumberRow]]) -> NumberRow:
    try:
        return asyncio.run(with_database(write))
    except NumberTaken as error:
        raise ParleyError(
            f"{error} belongs to another tenant of this platform; it has to be retired there first"
        ) from error


def _spec(given: dict[str, Any]) -> NumberSpec:
    try:
        return NumberSpec.model_validate(given)
    except ValidationError as error:
        (first, *_) = error.errors()
        field = str(first["loc"][0])
        raise ParleyError(f"--{field.replace('_', '-')} {given[field]}: {first['msg']}") from error


def _stated(reason: str) -> str:
    if not reason.strip():
        raise ParleyError("--reason is empty; say why, it is kept with the number")
    return reason.strip()


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M}"
