"""`parley tenant`: what a tenant may use. For who runs the platform, so straight in SQL and by no API."""

from __future__ import annotations

import asyncio
import difflib
import re
from typing import Annotated, Any

import typer

from serve_app.cli.common import clear_errors, out, with_database
from serve_app.dialing.plans import shipped_plans
from serve_app.errors import ParleyError
from serve_app.store.campaign_rows import TenantRow
from serve_app.store.db import Database
from serve_app.store.repositories import Tenants

app = typer.Typer(help="What a tenant may use: plan, limits, weight.", no_args_is_help=True)

NONE = "none"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Name = Annotated[str | None, typer.Option("--tenant", help="Default: the configured tenant.")]


@app.command()
def show(tenant: Name = None) -> None:
    """Show what it may use."""
    with clear_errors():

        async def read(db: Database, configured: str) -> tuple[str, TenantRow | None]:
            name = _named(tenant) or configured
            return name, await Tenants(db, name).get()

        name, row = asyncio.run(with_database(read))
        if row is None:
            out.print(f"nothing is known of {name}: it has the first plan, and no limits of its own", markup=False)
        _print(name, row)


@app.command("set")
def set_limits(
    tenant: Name = None,
    plan: Annotated[str | None, typer.Option(help="One of configs/plans.yaml.")] = None,
    max_concurrent: Annotated[str | None, typer.Option(help="Calls at once, within its plan; or none.")] = None,
    daily_calls: Annotated[str | None, typer.Option(help="Calls a day (UTC); or none.")] = None,
    spend_cap_minor: Annotated[
        str | None, typer.Option(help="What its calls of a month may cost, in cents; or none.")
    ] = None,
    weight: Annotated[int | None, typer.Option(help="Its share of the calls, beside other tenants: 1 to 100.")] = None,
    status: Annotated[str | None, typer.Option(help="active, or suspended: nothing is dialed.")] = None,
    business_name: Annotated[str | None, typer.Option(help="For people.")] = None,
) -> None:
    """Change what is given; the rest stays. It holds from the next claim on."""
    with clear_errors():
        name = _named(tenant)
        changes: dict[str, Any] = {
            "max_concurrent": _limit("--max-concurrent", max_concurrent),
            "daily_calls": _limit("--daily-calls", daily_calls),
            "spend_cap_minor": _limit("--spend-cap-minor", spend_cap_minor),
            "weight": _weight(weight),
            "status": _one_of("--status", status, ("active", "suspended")),
            "business_name": _title(business_name),
        }
        changes = {column: value for column, value in changes.items() if value is not None}
        plans = tuple(shipped_plans().plans)
        wanted = _one_of("--plan", plan, plans)
        if wanted is None and not changes:
            raise ParleyError("nothing to change is given; see `parley tenant set --help`")
        values = {column: None if value == NONE else value for column, value in changes.items()}

        async def write(db: Database, configured: str) -> TenantRow:
            return await Tenants(db, name or configured).change(wanted, first_plan=plans[0], **values)

        row = asyncio.run(with_database(write))
        _print(row.tenant_id, row)


def _print(name: str, row: TenantRow | None) -> None:
    plans = shipped_plans()
    plan_name = next(iter(plans.plans)) if row is None else row.plan
    told: dict[str, Any] = {"tenant": name, "plan": plan_name}
    plan = plans.of(plan_name)
    if plan is None:
        told["plan"] += " (there is no such plan: nothing may be called)"
    else:
        told |= {f"plan: {field}": value for field, value in plan.model_dump().items()}
    if row is not None:
        fields = ("status", "max_concurrent", "daily_calls", "spend_cap_minor", "weight", "business_name")
        told |= {field: getattr(row, field) for field in fields}
    for field, value in told.items():
        out.print(f"{field:24} {'unlimited' if value is None else value}", markup=False)


def _named(tenant: str | None) -> str | None:
    if tenant is not None and not _NAME.fullmatch(tenant):
        raise ParleyError(f"--tenant {tenant}: up to 64 letters, digits, dots, hyphens and underscores")
    return tenant


def _limit(option: str, text: str | None) -> int | str | None:
    """A number, `NONE`, or None: not given."""
    if text is None or text == NONE:
        return text
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 1_000_000_000:
        raise ParleyError(f"{option} {text}: a whole number from 1 on, or {NONE} for no limit of its own")
    return int(text)


def _weight(weight: int | None) -> int | None:
    if weight is not None and not 1 <= weight <= 100:
        raise ParleyError(f"--weight {weight}: a whole number from 1 to 100")
    return weight


def _one_of(option: str, text: str | None, known: tuple[str, ...]) -> str | None:
    if text is None or text in known:
        return text
    near = difflib.get_close_matches(text, known, n=1)
    raise ParleyError(f"{option} {text}: " + (f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"))


def _title(text: str | None) -> str | None:
    if text is not None and not (0 < len(text.strip()) <= 200):
        raise ParleyError("--business-name: 1 to 200 characters")
    return None if text is None else text.strip()
