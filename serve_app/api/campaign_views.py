"""What goes in and out of the routes of campaigns."""

from __future__ import annotations

from datetime import datetime
from typing import Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from serve_app.dialing.campaign_spec import CampaignSpec
from serve_app.dialing.texts import PLAIN_TEXT
from serve_app.store.campaign_rows import CampaignRow, CampaignStatus
from serve_app.store.repositories import AgentAttemptRow


class CampaignView(CampaignSpec):
    """A campaign with where it stands."""

    id: str
    status: CampaignStatus
    scheduled_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None = Field(description="when it was completed or stopped")
    created_at: datetime
    updated_at: datetime


class CampaignPage(BaseModel):
    items: list[CampaignView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


class ChangedView(BaseModel):
    """`changed` false: it was so already."""

    changed: bool
    campaign: CampaignView


class Schedule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    at: AwareDatetime = Field(description="RFC 3339, with its offset or Z", examples=["2027-01-11T14:00:00Z"])


class Stop(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    end_live_calls: bool = Field(False, description="also hang up the calls that ring or talk")


class Reopen(BaseModel):
    """Which closed leads: one, or all that were closed for a reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lead_id: UUID | None = None
    reason: str | None = Field(
        None, max_length=64, pattern=PLAIN_TEXT, description="their `last_reason`", examples=["not_scrubbed"]
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.lead_id is None) == (self.reason is None):
            raise PydanticCustomError(
                "reopen", "name either lead_id or reason", {"remedy": "give one of the two, and not both"}
            )
        return self


class ReopenedView(BaseModel):
    reopened: int


class StoppedView(ChangedView):
    ended_calls: int = Field(description="live calls that were told to end")
    live_calls: int = Field(description="those that could not be reached at this moment; ask again to end them")


class JobView(BaseModel):
    """One attempt to call one lead."""

    id: str
    call_id: str
    lead_id: str | None
    number: str
    from_number: str
    agent: str
    agent_version: int = Field(description="a version of an agent is its prompt and its voice together")
    attempt: int | None = Field(description="1 for the first of its lead")
    status: str = Field(description="intended, placing, placed, unknown, ended")
    result: str | None = Field(description="the disposition, once it has ended")
    detail: str | None
    reason: str | None = Field(description="a reason code of the calling rules")
    cost: str | None = Field(description="what the network charged; null while it has not told", examples=["0.000834"])
    cost_currency: str | None
    created_at: datetime
    placed_at: datetime | None
    ended_at: datetime | None


class JobPage(BaseModel):
    items: list[JobView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


def campaign_view(row: CampaignRow) -> CampaignView:
    fields = {name: getattr(row, name) for name in CampaignView.model_fields if name != "agent"}
    return CampaignView.model_validate({**fields, "agent": row.agent_name})


def job_view(row: AgentAttemptRow) -> JobView:
    return JobView(
        id=row.id,
        call_id=row.call_id,
        lead_id=row.lead_id,
        number=row.to_number,
        from_number=row.from_number,
        agent=row.agent_name,
        agent_version=row.agent_version,
        attempt=row.number_in_lead,
        status=row.status,
        result=row.result or row.disposition,
        detail=row.detail,
        reason=row.rules_reason,
        cost=None if row.cost is None else row.cost.amount,
        cost_currency=row.cost_currency,
        created_at=row.created_at,
        placed_at=row.placing_at,
        ended_at=row.ended_at,
    )
