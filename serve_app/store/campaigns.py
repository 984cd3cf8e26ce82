"""Campaigns: what is to be done with leads, and whether it is being done now.

    draft -> scheduled -> running <-> paused
    any of these -> cancelled; running <-> completed, by itself (`campaign_upkeep`)

Every change is one conditional update, so that of two that come at once one wins, and asking for what is already so
changes nothing. A paused or cancelled campaign has no new calls from the commit on: its attempts that wait do not pass
their fence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import CompoundSelect, Select, func, literal, select, true, union_all, update
from sqlalchemy.exc import IntegrityError

from serve_app.errors import ParleyError
from serve_app.store.attempts import of_its_call
from serve_app.store.base import new_id
from serve_app.store.campaign_models import Campaign, Lead, Usage
from serve_app.store.campaign_rows import CampaignRow, CampaignStatus
from serve_app.store.models import ONE_LIVE, Attempt, Call
from serve_app.store.rows import AgentAttemptRow, to_row, with_agent
from serve_app.store.scope import TenantScope

# What may become what. A status that is there already is no change and no error.
TRANSITIONS: Mapping[str, tuple[CampaignStatus, ...]] = {
    "draft": ("scheduled",),
    "scheduled": ("draft",),
    "running": ("draft", "scheduled", "paused", "completed"),
    "paused": ("running",),
    "completed": ("running",),
    "cancelled": ("draft", "scheduled", "running", "paused"),
}
EDITABLE = frozenset(
    {
        *("name", "description", "goal", "agent_name", "agent_version", "calling_rules", "retry_policy"),
        *("number_pool", "weight", "max_concurrent", "daily_calls", "spend_cap_minor"),
    }
)


class CampaignNameTaken(ParleyError):  # noqa: N818  (a state of affairs, not a fault)
    """This tenant has a campaign of this name."""


class CampaignStateConflict(ParleyError):  # noqa: N818  (a state of affairs, not a fault)
    """The campaign cannot become what was asked for from what it is. `status`: what it is."""

    def __init__(self, status: CampaignStatus, wanted: str) -> None:
        super().__init__(f"a campaign that is {status} cannot become {wanted}")
        self.status = status


@dataclass(frozen=True, slots=True)
class CampaignStats:
    """Counts of one moment. `results`: ended attempts by disposition, those that did not count included."""

    leads: Mapping[str, int]
    """By state, deleted ones included."""
    attempted: int
    """Leads that were called at least once."""
    results: Mapping[str, int]
    live: int
    """Attempts that wait, ring or talk."""
    talk_s: float
    """Of the calls that have ended."""
    cost_micros: Mapping[str, int] = field(default_factory=dict)
    """By currency: what the network charged, as far as it told."""


class Campaigns(TenantScope):
    async def create(
        self,
        name: str,
        agent_name: str,
        *,
        calling_rules: Mapping[str, Any],
        retry_policy: Mapping[str, Any] | None = None,
        description: str = "",
        goal: str = "",
        agent_version: int | None = None,
        number_pool: str | None = None,
        weight: int = 1,
        max_concurrent: int | None = None,
        daily_calls: int | None = None,
        spend_cap_minor: int | None = None,
    ) -> CampaignRow:
        """A draft. The documents are stored as they are: whoever calls has validated them. Raises CampaignNameTaken."""
        now = self.clock.now()
        campaign = Campaign(
            id=new_id(),
            tenant_id=self.tenant_id,
            name=name,
            description=description,
            goal=goal,
            status="draft",
            agent_name=agent_name,
            agent_version=agent_version,
            calling_rules=dict(calling_rules),
            retry_policy={"version": 1, **(retry_policy or {})},
            number_pool=number_pool,
            weight=weight,
            max_concurrent=max_concurrent,
            daily_calls=daily_calls,
            spend_cap_minor=spend_cap_minor,
            created_at=now,
            updated_at=now,
            epoch=0,
        )
        try:
            async with self.db.transaction() as session:
                session.add(campaign)
                await session.flush()
                return to_row(CampaignRow, campaign)
        except IntegrityError as error:
            raise _taken(error, name) from error

    async def get(self, campaign_id: str) -> CampaignRow | None:
        async with self.db.session() as session:
            found = await session.scalar(self._query().where(Campaign.id == campaign_id))
            return None if found is None else to_row(CampaignRow, found)

    async def by_name(self, name: str) -> CampaignRow | None:
        async with self.db.session() as session:
            found = await session.scalar(self._query().where(Campaign.name == name))
            return None if found is None else to_row(CampaignRow, found)

    async def update(self, campaign_id: str, **changes: Any) -> CampaignRow | None:
        """Change some of `EDITABLE`, in any status; a changed retry policy gets the next version.

        None: there is no such campaign. Raises CampaignNameTaken, and CampaignStateConflict where it is cancelled.
        """
        unknown = sorted(set(changes) - EDITABLE)
        if unknown:
            raise ValueError(f"{unknown[0]}: not a field that can be changed")
        now = self.clock.now()
        try:
            async with self.db.transaction() as session:
                found = await session.scalar(self._query().where(Campaign.id == campaign_id).with_for_update())
                if found is None:
                    return None
                row = to_row(CampaignRow, found)
                if row.status == "cancelled":
                    raise CampaignStateConflict(row.status, "something else")
                policy = changes.pop("retry_policy", None)
                if policy is not None:
                    found.retry_policy = {**policy, "version": int(row.retry_policy.get("version", 1)) + 1}
                for name, value in changes.items():
                    setattr(found, name, value)
                found.updated_at = now
                await session.flush()
                return to_row(CampaignRow, found)
        except IntegrityError as error:
            raise _taken(error, str(changes.get("name"))) from error

    async def start(self, campaign_id: str) -> tuple[CampaignRow, bool] | None:
        """Run a draft or a scheduled campaign now, or a completed one. A paused one is resumed.

        The campaign, and whether this call changed it; None: there is no such campaign. Raises CampaignStateConflict.
        So do all that follow.
        """
        return await self._become(campaign_id, "running", only_from=("draft", "scheduled", "completed"))

    async def schedule(self, campaign_id: str, at: datetime) -> tuple[CampaignRow, bool] | None:
        """Run it at a time. One that is scheduled already gets the new time."""
        return await self._become(campaign_id, "scheduled", only_from=("draft", "scheduled"), scheduled_at=at)

    async def unschedule(self, campaign_id: str) -> tuple[CampaignRow, bool] | None:
        """Back to a draft."""
        return await self._become(campaign_id, "draft", scheduled_at=None)

    async def pause(self, campaign_id: str) -> tuple[CampaignRow, bool] | None:
        """No new calls from the commit on. Calls that ring or talk go on."""
        return await self._become(campaign_id, "paused")

    async def resume(self, campaign_id: str) -> tuple[CampaignRow, bool] | None:
        return await self._become(campaign_id, "running", only_from=("paused",))

    async def cancel(self, campaign_id: str) -> tuple[CampaignRow, bool] | None:
        """For good. Calls that ring or talk go on; its leads stay as they are, on record."""
        return await self._become(campaign_id, "cancelled", completed_at=self.clock.now())

    async def stats(self, campaign_id: str) -> CampaignStats:
        """In one query. Zeros for a campaign that is not there."""
        mine = (Attempt.tenant_id == self.tenant_id, Attempt.campaign_id == campaign_id)
        query: CompoundSelect[Any, Any, Any] = union_all(
            select(literal("lead"), Lead.state, func.count())
            .where(Lead.tenant_id == self.tenant_id, Lead.campaign_id == campaign_id)
            .group_by(Lead.state),
            select(literal("attempted"), literal(""), func.count(Attempt.lead_id.distinct())).where(
                *mine, Attempt.result != "not_placed"
            ),
            select(literal("result"), Attempt.result, func.count())
            .where(*mine, Attempt.result.is_not(None))
            .group_by(Attempt.result),
            select(literal("live"), literal(""), func.count()).where(ONE_LIVE, *mine),
            select(literal("talk_s"), literal(""), func.coalesce(func.sum(Usage.talk_s), 0.0)).where(
                Usage.tenant_id == self.tenant_id, Usage.campaign_id == campaign_id
            ),
            select(literal("cost"), Attempt.cost_currency, func.sum(Attempt.cost_micros))
            .where(*mine, Attempt.cost_micros.is_not(None))
            .group_by(Attempt.cost_currency),
        )
        kinds = ("lead", "attempted", "result", "live", "talk_s", "cost")
        counts: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
        async with self.db.session() as session:
            for kind, word, count in await session.execute(query):
                counts[kind][word] = count
        return CampaignStats(
            leads={state: int(count) for state, count in counts["lead"].items()},
            attempted=int(counts["attempted"][""]),
            results={result: int(count) for result, count in counts["result"].items()},
            live=int(counts["live"][""]),
            talk_s=float(counts["talk_s"][""]),
            cost_micros={currency: round(micros) for currency, micros in counts["cost"].items()},
        )

    async def attempts(
        self, campaign_id: str, *, limit: int, before: str | None = None, live: bool = False
    ) -> tuple[list[AgentAttemptRow], str | None]:
        """Newest first, with the cursor for the next page. `live`: only those that have not ended."""
        query = (
            select(Attempt, of_its_call(Call.agent_name), of_its_call(Call.agent_version))
            .where(Attempt.tenant_id == self.tenant_id, Attempt.campaign_id == campaign_id)
            .where(ONE_LIVE if live else true())
            .order_by(Attempt.id.desc())
            .limit(limit + 1)
        )
        if before is not None:
            query = query.where(Attempt.id < before)
        async with self.db.session() as session:
            rows = [with_agent(*found) for found in await session.execute(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    async def list(
        self, *, limit: int, before: str | None = None, status: CampaignStatus | None = None
    ) -> tuple[list[CampaignRow], str | None]:
        """Newest first, with the cursor for the next page."""
        query = self._query().order_by(Campaign.id.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(Campaign.id < before)
        if status is not None:
            query = query.where(Campaign.status == status)
        async with self.db.session() as session:
            rows = [to_row(CampaignRow, campaign) for campaign in await session.scalars(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    async def _become(
        self, campaign_id: str, status: CampaignStatus, *, only_from: tuple[CampaignStatus, ...] = (), **values: Any
    ) -> tuple[CampaignRow, bool] | None:
        now = self.clock.now()
        move = update(Campaign).where(
            Campaign.tenant_id == self.tenant_id,
            Campaign.id == campaign_id,
            Campaign.status.in_(only_from or TRANSITIONS[status]),
        )
        if status == "running":
            values |= {"started_at": func.coalesce(Campaign.started_at, now), "completed_at": None}
        moved = move.values(status=status, updated_at=now, epoch=Campaign.epoch + 1, **values)
        async with self.db.transaction() as session:
            changed = await session.scalar(moved.returning(Campaign.id).execution_options(synchronize_session=False))
            found = await session.scalar(self._query().where(Campaign.id == campaign_id))
            if found is None:
                return None
            row = to_row(CampaignRow, found)
            if changed is None and row.status != status:
                raise CampaignStateConflict(row.status, status)
            return row, changed is not None

    def _query(self) -> Select[Campaign]:
        return select(Campaign).where(Campaign.tenant_id == self.tenant_id)


def _taken(error: IntegrityError, name: str) -> Exception:
    # PostgreSQL names the constraint, SQLite its columns.
    if "uq_campaigns_tenant_id_name" in str(error.orig) or "campaigns.name" in str(error.orig):
        return CampaignNameTaken(f"there is a campaign named {name} already")
    return error
