"""Kill switches: while one is on, no call that it covers is placed, whatever was queued or started before."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from serve_app.api.auth import Caller
from serve_app.api.campaigns import campaign_of
from serve_app.api.deps import Deps
from serve_app.api.do_not_call import Note
from serve_app.api.problems import ProblemError
from serve_app.dialing.numbers import PhoneNumber
from serve_app.store.campaign_rows import SwitchRow
from serve_app.store.repositories import KillSwitches

router = APIRouter(prefix="/api/v1/kill-switches", tags=["kill-switches"])

Scope = Literal["number", "campaign", "tenant"]


class Switch(BaseModel):
    """What is switched off: one number, one campaign, or all calls of the tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scope: Scope
    number: PhoneNumber | None = Field(None, description="with scope `number`")
    campaign_id: UUID | None = Field(None, description="with scope `campaign`")

    @model_validator(mode="after")
    def _names_its_scope(self) -> Self:
        given = {"number": self.number, "campaign": self.campaign_id}
        if (given.pop(self.scope, "") is None) or any(value is not None for value in given.values()):
            raise PydanticCustomError(
                "switch_scope",
                "a switch of scope {scope} names that and nothing else",
                {"scope": self.scope, "remedy": "scope number goes with number, campaign with campaign_id"},
            )
        return self

    @property
    def key(self) -> str:
        return self.number or str(self.campaign_id or "")


class SwitchOn(Switch):
    reason: Note = Field(description="why, for whoever wants to lift it", examples=["complaints about the script"])


class SwitchView(BaseModel):
    id: str
    scope: Scope
    key: str = Field(description="the number, the id of the campaign, or the tenant")
    reason: str
    on_at: datetime
    on_by: str
    off_at: datetime | None
    off_by: str | None


class SwitchList(BaseModel):
    items: list[SwitchView]


@router.get("", response_model=SwitchList)
async def list_switches(
    caller: Caller, deps: Deps, lifted: Annotated[bool, Query(description="also those that were lifted")] = False
) -> SwitchList:
    """Those that are on, oldest first."""
    return SwitchList(items=[_view(row) for row in await KillSwitches(deps.db, caller.tenant_id).list(lifted=lifted)])


@router.post("", status_code=201, response_model=SwitchView)
async def switch_on(body: SwitchOn, caller: Caller, deps: Deps) -> SwitchView:
    """Place no such call from this moment on. Calls that ring or talk go on. One that is on stays as it is."""
    if body.campaign_id is not None:
        await campaign_of(deps, caller.tenant_id, body.campaign_id)
    switches = KillSwitches(deps.db, caller.tenant_id, clock=deps.clock)
    row = await switches.on(body.scope, body.key, reason=body.reason, by=f"key {caller.key_id}")
    await deps.changed(caller.tenant_id)
    return _view(row)


@router.post("/lift", response_model=SwitchView)
async def lift_switch(body: Switch, caller: Caller, deps: Deps) -> SwitchView:
    """Allow such calls again. Who lifted it stays on record."""
    switches = KillSwitches(deps.db, caller.tenant_id, clock=deps.clock)
    row = await switches.off(body.scope, body.key, by=f"key {caller.key_id}")
    if row is None:
        raise ProblemError(404, "not_on", "no such switch is on", remedy="see GET /api/v1/kill-switches")
    await deps.changed(caller.tenant_id)
    return _view(row)


def _view(row: SwitchRow) -> SwitchView:
    return SwitchView.model_validate({name: getattr(row, name) for name in SwitchView.model_fields})
