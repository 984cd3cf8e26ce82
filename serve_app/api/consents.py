"""Consents: that the owner of a number agreed to be called, when, how and for what. None is ever overwritten."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

from serve_app.api.auth import Caller
from serve_app.api.deps import Deps
from serve_app.api.do_not_call import Note
from serve_app.api.problems import field_problem
from serve_app.api.schemas import bounded
from serve_app.dialing.numbers import PhoneNumber
from serve_app.dialing.texts import PLAIN_TEXT
from serve_app.store.campaign_rows import ConsentKind, ConsentRow
from serve_app.store.repositories import Consents

router = APIRouter(prefix="/api/v1/consents", tags=["consents"])


class ConsentGiven(BaseModel):
    """A consent to record."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: PhoneNumber
    kind: ConsentKind = Field(description="which kind a call needs is a matter of law: docs/calling-rules.md")
    scope: str = Field(
        "*", min_length=1, max_length=100, pattern=PLAIN_TEXT, description="what it is for; `*`: every campaign"
    )
    source: Note = Field(description="where it was given", examples=["form on example.com/recall, 2026-11-02"])
    given_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    document: Annotated[dict[str, JsonValue], AfterValidator(bounded)] | None = Field(
        None, description="what was shown and agreed to, or where the copy is kept"
    )


class ConsentTakenBack(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    number: PhoneNumber


class ConsentView(BaseModel):
    id: str
    number: str
    kind: ConsentKind
    scope: str
    source: str
    given_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    document: dict[str, Any] | None
    created_at: datetime


class ConsentList(BaseModel):
    items: list[ConsentView]


class RevokedView(BaseModel):
    revoked: int


@router.get("", response_model=ConsentList)
async def list_consents(
    caller: Caller,
    deps: Deps,
    number: Annotated[PhoneNumber, Query(description="in E.164; its plus sign is written %2B")],
) -> ConsentList:
    """All that is recorded of a number, revoked and expired ones included, oldest first."""
    return ConsentList(items=[_view(row) for row in await Consents(deps.db, caller.tenant_id).of(number)])


@router.post("", status_code=201, response_model=ConsentView)
async def record_consent(body: ConsentGiven, caller: Caller, deps: Deps) -> ConsentView:
    """Record a consent. Leads of the number that were closed for want of one are ready again."""
    if body.given_at > deps.clock.now():
        raise field_problem("given_at", "a consent cannot have been given in the future", "check the date and its zone")
    if body.expires_at is not None and body.expires_at <= body.given_at:
        raise field_problem("expires_at", "it is not after given_at", "leave it out if the consent has no term")
    row = await Consents(deps.db, caller.tenant_id, clock=deps.clock).record(
        body.number,
        body.kind,
        scope=body.scope,
        source=body.source,
        given_at=body.given_at,
        expires_at=body.expires_at,
        document=None if body.document is None else dict(body.document),
    )
    await deps.changed(caller.tenant_id)
    return _view(row)


@router.post("/revoke", response_model=RevokedView)
async def revoke_consents(body: ConsentTakenBack, caller: Caller, deps: Deps) -> RevokedView:
    """The owner of a number takes every consent back: no campaign's call that still waits is placed.

    Who is never to be called again belongs on the do-not-call list.
    """
    revoked = await Consents(deps.db, caller.tenant_id, clock=deps.clock).revoke(body.number)
    await deps.changed(caller.tenant_id)
    return RevokedView(revoked=revoked)


def _view(row: ConsentRow) -> ConsentView:
    return ConsentView.model_validate({name: getattr(row, name) for name in ConsentView.model_fields})
