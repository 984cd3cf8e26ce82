"""The tenant's own numbers: those that its campaigns call from, and at which it is called back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict

from serve_app.api.auth import Caller
from serve_app.api.deps import ApiDeps, Deps
from serve_app.api.do_not_call import Note
from serve_app.api.problems import ProblemError, field_problem, not_found
from serve_app.dialing.campaign_spec import PoolName
from serve_app.dialing.number_rest import RESTED
from serve_app.dialing.number_spec import NumberSpec
from serve_app.dialing.numbers import PhoneNumber
from serve_app.store.campaign_rows import NumberRow, NumberState
from serve_app.store.numbers import NumberTaken
from serve_app.store.repositories import Agents, Numbers

router = APIRouter(prefix="/api/v1/numbers", tags=["numbers"])

Number = Annotated[PhoneNumber, Path(description="in E.164")]


class Rest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    until: AwareDatetime
    reason: Note


class Retirement(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Note


class NumberView(BaseModel):
    number: str
    pool: str
    region: str | None
    attestation: str | None
    agent: str | None
    daily_cap: int
    warmup_from: datetime | None
    state: NumberState
    cool_until: datetime | None
    state_reason: str | None
    created_at: datetime
    updated_at: datetime


class NumberList(BaseModel):
    items: list[NumberView]


@router.get("", response_model=NumberList)
async def list_numbers(
    caller: Caller, deps: Deps, pool: Annotated[PoolName | None, Query(description="only those of this pool")] = None
) -> NumberList:
    """All of them, retired ones included, by number."""
    return NumberList(items=[_view(row) for row in await Numbers(deps.db, caller.tenant_id).list(pool=pool)])


@router.get("/{number}", response_model=NumberView)
async def read_number(number: Number, caller: Caller, deps: Deps) -> NumberView:
    return _found(await Numbers(deps.db, caller.tenant_id).get(number))


@router.put("/{number}", response_model=NumberView)
async def put_number(number: Number, body: NumberSpec, caller: Caller, deps: Deps) -> NumberView:
    """Add a number, or say anew what it is for; whether it rests or is retired stays.

    The account of the phone network must have it: the network refuses calls from any other.
    """
    if body.agent is not None and await Agents(deps.db, caller.tenant_id).get(body.agent) is None:
        raise field_problem(
            "agent", f"there is no agent named {body.agent}", "see GET /api/v1/agents, or create it", code="no_agent"
        )
    if number == deps.settings.telephony.vonage.from_number and caller.tenant_id != deps.settings.tenant:
        raise _taken()
    settings = body.model_dump(exclude={"agent"})
    try:
        row = await _numbers(deps, caller.tenant_id).put(number, agent_name=body.agent, **settings)
    except NumberTaken as error:
        raise _taken() from error
    await deps.changed(caller.tenant_id)
    return _view(row)


@router.post("/{number}/rest", response_model=NumberView)
async def rest_number(number: Number, body: Rest, caller: Caller, deps: Deps) -> NumberView:
    """Call from it no more until a time. Who calls it back is answered."""
    if body.until <= deps.clock.now():
        raise field_problem("until", "it is not in the future", "give the time at which it may call again")
    row = await _numbers(deps, caller.tenant_id).set_state(number, "cooling", reason=body.reason, cool_until=body.until)
    return _found(row)


@router.post("/{number}/retire", response_model=NumberView)
async def retire_number(number: Number, body: Retirement, caller: Caller, deps: Deps) -> NumberView:
    """Call from it no more. Its record stays, and so does its owner until another tenant adds it."""
    return _found(await _numbers(deps, caller.tenant_id).set_state(number, "retired", reason=body.reason))


@router.post("/{number}/activate", response_model=NumberView)
async def activate_number(number: Number, caller: Caller, deps: Deps) -> NumberView:
    """Call from it again. Its earlier calls no longer count against it."""
    try:
        row = await _numbers(deps, caller.tenant_id).set_state(number, "active", reason=RESTED)
    except NumberTaken as error:
        raise _taken() from error
    await deps.changed(caller.tenant_id)
    return _found(row)


def _numbers(deps: ApiDeps, tenant_id: str) -> Numbers:
    return Numbers(deps.db, tenant_id, clock=deps.clock)


def _taken() -> ProblemError:
    return ProblemError(
        409,
        "number_taken",
        "number: it belongs to somebody else on this platform",
        remedy="check the number; its owner has to retire it first",
    )


def _found(row: NumberRow | None) -> NumberView:
    if row is None:
        raise not_found("number")
    return _view(row)


def _view(row: NumberRow) -> NumberView:
    renamed = {"number": row.e164, "agent": row.agent_name}
    same = {name: getattr(row, name) for name in NumberView.model_fields if name not in renamed}
    return NumberView.model_validate(renamed | same)
