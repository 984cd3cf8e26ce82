"""What SQL knows that a decision to call needs, read in the transaction that acts on the decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.among import one_value
from serve_app.store.campaign_rows import CampaignRow, ConsentKind, SwitchScope, TenantRow
from serve_app.store.claim_queries import campaign_query, numbers_query
from serve_app.store.models import LIVE_ATTEMPT
from serve_app.store.numbers import NumberUse, numbers_in_use
from serve_app.store.usage import Used


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """A call to a number that was placed, may have been, or is about to be."""

    at: datetime
    campaign_id: str | None


@dataclass(frozen=True, slots=True)
class KnownConsent:
    """What a decision asks of a consent."""

    kind: ConsentKind
    scope: str
    given_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NumberFacts:
    """Of one number, for one tenant."""

    on_list: bool
    """On the tenant's do-not-call list."""
    registries: tuple[str, ...]
    """The public registries on which it is, by their names."""
    consents: tuple[KnownConsent, ...]
    """Revoked and expired ones included."""
    placed: tuple[PlacedCall, ...]
    """By all campaigns and single calls of the tenant, oldest first."""
    busy: bool
    """A call to it is live."""
    switched_off: bool
    """A kill switch for this number is on."""


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """Of the campaign that is fed, and of its tenant."""

    campaign: CampaignRow
    tenant: TenantRow | None
    switches: frozenset[SwitchScope]
    """Kill switches that are on: `global`, `tenant`, `campaign`."""
    agent_version: int | None
    """That of the campaign, or the newest; None: there is no such agent."""
    live: int
    """Calls of the campaign that wait, ring or go on; the slots in Redis are the limit, this is the truth."""
    tenant_live: int
    used_today: Used
    """By the campaign, on this UTC day, live calls not included."""
    used_ever: Used
    """By the campaign."""
    tenant_used_today: Used
    tenant_used_month: Used
    """By all calls of the tenant, in this calendar month (UTC)."""
    numbers: tuple[NumberUse, ...] = ()
    """Those of the tenant that the campaign calls from; none: the tenant has none for it."""
    has_numbers: bool = False
    """The tenant has numbers of its own, perhaps of other pools, perhaps retired."""


async def campaign_facts(
    connection: AsyncConnection,
    campaign: CampaignRow,
    tenant: TenantRow | None,
    now: datetime,
    *,
    has_numbers: bool = False,
) -> CampaignFacts:
    """Of the state of one moment. `has_numbers`: the tenant has numbers of its own, which takes another question."""
    numbers: tuple[NumberUse, ...] = ()
    if has_numbers:
        numbers = await numbers_in_use(connection, campaign.tenant_id, campaign.number_pool, now)
    wanted = {
        "tenant_id": campaign.tenant_id,
        "campaign_id": campaign.id,
        "today": f"{now:%Y-%m-%d}",
        "month": f"{now:%Y-%m}-01",
        "agent_name": campaign.agent_name,
        "agent_version": campaign.agent_version,
    }
    found: dict[str, list[Row[Any, Any, Any]]] = defaultdict(list)
    for row in await connection.execute(campaign_query(), wanted):
        found[row.what].append(row)
    live = {row.whose: row.amount for row in found["live"]}
    usage = found["usage"]
    this_month = [row for row in usage if row.period != "before"]
    return CampaignFacts(
        campaign=campaign,
        tenant=tenant,
        switches=frozenset(row.whose for row in found["switch"]),
        agent_version=found["agent"][0].amount,
        live=live.get("mine", 0),
        tenant_live=sum(live.values()),
        used_today=_sum([row for row in usage if row.whose == "mine" and row.period == "today"]),
        used_ever=_sum([row for row in usage if row.whose == "mine"]),
        tenant_used_today=_sum([row for row in this_month if row.period == "today"]),
        tenant_used_month=_sum(this_month),
        numbers=numbers,
        has_numbers=has_numbers,
    )


def _sum(rows: Sequence[Row[Any, Any, Any]]) -> Used:
    return Used(
        calls=sum(r.amount for r in rows),
        answered=sum(r.answered for r in rows),
        talk_s=sum(r.talk_s for r in rows),
        cost_micros=sum(int(r.cost_micros) for r in rows),  # PostgreSQL sums them up to a decimal
        priced_talk_s=sum(r.priced_talk_s for r in rows),
    )


async def number_facts(connection: AsyncConnection, tenant_id: str, numbers: Collection[str]) -> dict[str, NumberFacts]:
    """Of each of the numbers."""
    dialect = connection.dialect.name
    wanted = {"tenant_id": tenant_id, "numbers": one_value(dialect, numbers)}
    found: dict[str, dict[str, list[Row[Any, Any, Any]]]] = {number: defaultdict(list) for number in numbers}
    for row in await connection.execute(numbers_query(dialect), wanted):
        found[row.number][row.what].append(row)
    return {number: _number_facts(rows) for number, rows in found.items()}


def _number_facts(found: dict[str, list[Row[Any, Any, Any]]]) -> NumberFacts:
    calls = sorted(found["call"], key=lambda row: row.at)
    return NumberFacts(
        on_list=bool(found["listed"]),
        registries=tuple(sorted(row.word for row in found["registry"])),
        consents=tuple(KnownConsent(c.status, c.word, c.at, c.until, c.revoked_at) for c in found["consent"]),
        placed=tuple(PlacedCall(call.at, call.word) for call in calls),
        busy=any(call.status in LIVE_ATTEMPT for call in calls),
        switched_off=bool(found["off"]),
    )
