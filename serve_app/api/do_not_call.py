"""The do-not-call list: numbers whose owners asked not to be called again, and those that a person listed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serve_app.api.auth import Caller
from serve_app.api.deps import Deps
from serve_app.api.problems import ProblemError
from serve_app.dialing.numbers import PhoneNumber
from serve_app.dialing.texts import PLAIN_TEXT
from serve_app.store.repositories import DoNotCall, DoNotCallRow
from serve_app.store.rows import DoNotCallSource

router = APIRouter(prefix="/api/v1/do-not-call", tags=["do-not-call"])

Note = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000, pattern=PLAIN_TEXT)]


class Listing(BaseModel):
    """A number to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: PhoneNumber
    text: Note = Field(description="why, for whoever reads the list later", examples=["asked by letter"])


class Removal(BaseModel):
    """A number to take off the list. The reason stays on record, with the key that asked for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: PhoneNumber
    reason: Note = Field(description="for example, how and when the owner agreed anew to be called")


class DoNotCallView(BaseModel):
    id: str
    number: str
    source: DoNotCallSource = Field(
        description="how the wish was told: a key, words, words as the language model understood them; "
        "or what listed the number: a person, the result of a call, a file that was imported"
    )
    call_id: str | None
    text: str
    created_at: datetime
    removed_at: datetime | None
    removed_by: str | None
    removed_reason: str | None


class DoNotCallPage(BaseModel):
    items: list[DoNotCallView]
    next_cursor: str | None = Field(description="pass as `cursor` to get the next page; null on the last one")


@router.get("", response_model=DoNotCallPage)
async def list_numbers(
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the last page")] = None,
    number: Annotated[PhoneNumber | None, Query(description="only this number (its plus sign is written %2B)")] = None,
    removed: Annotated[bool, Query(description="also what was taken off the list")] = False,
) -> DoNotCallPage:
    """What was listed last comes first."""
    before = str(cursor) if cursor is not None else None
    listing = DoNotCall(deps.db, caller.tenant_id)
    rows, following = await listing.list(limit=limit, before=before, number=number, removed=removed)
    return DoNotCallPage(items=[_view(row) for row in rows], next_cursor=following)


@router.post("", status_code=201, response_model=DoNotCallView)
async def list_number(body: Listing, caller: Caller, deps: Deps) -> DoNotCallView:
    """List a number: from now on no call to it is placed, also none that waits. One that is listed stays as it is."""
    row = await DoNotCall(deps.db, caller.tenant_id).add(body.number, body.text)
    # The dialer ends what waits for this number.
    await deps.changed(caller.tenant_id)
    return _view(row)


@router.post("/remove", response_model=DoNotCallView)
async def remove_number(body: Removal, caller: Caller, deps: Deps) -> DoNotCallView:
    """Take a number off the list, for a stated reason."""
    listing = DoNotCall(deps.db, caller.tenant_id)
    row = await listing.remove(body.number, reason=body.reason, by=f"key {caller.key_id}")
    if row is None:
        raise ProblemError(
            404, "not_listed", "number: it is not on the do-not-call list", remedy="see GET /api/v1/do-not-call"
        )
    return _view(row)


def _view(row: DoNotCallRow) -> DoNotCallView:
    return DoNotCallView.model_validate(row, from_attributes=True)
