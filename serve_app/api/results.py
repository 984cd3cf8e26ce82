"""What came of a call, told by a person: after listening to it, say, or after talking with the lead."""

from __future__ import annotations

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from serve_app.api.auth import Caller
from serve_app.api.deps import Deps
from serve_app.api.problems import ProblemError, field_problem, not_found
from serve_app.conversation.results import ReportRefusedError, Result, checked
from serve_app.dialing.lead_zones import zones_of
from serve_app.dialing.settling import settle_lead
from serve_app.store.callers import Callers
from serve_app.store.repositories import Attempts, Calls

router = APIRouter(prefix="/api/v1/calls", tags=["calls"])


class CallResultTold(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    result: Result
    callback_at: datetime | None = Field(
        None, description="with callback: when; without an offset, in the time of the lead's zone"
    )


class CallResultView(BaseModel):
    result: Result
    callback_at: datetime | None


@router.post("/{call_id}/result", response_model=CallResultView)
async def report_result(call_id: str, body: CallResultTold, caller: Caller, deps: Deps) -> CallResultView:
    """Say what came of a campaign's call; in place of what its conversation reported.

    Its lead follows at once, or with the end of the call.

    An opt-out stays one, whatever is reported.
    """
    call = await Calls(deps.db, caller.tenant_id).get(call_id)
    if call is None:
        raise not_found("call")
    attempts = Attempts(deps.db, caller.tenant_id, clock=deps.clock)
    known = await attempts.for_call(call_id)
    lead_id = known[-1].lead_id if known else None
    lead = None if lead_id is None else await Callers(deps.db, caller.tenant_id).lead(lead_id)
    if lead is None:
        raise ProblemError(409, "no_lead", "no lead was called by this call, so nothing follows from its result")
    if call.over and call.answered_at is None:
        raise ProblemError(
            409,
            "not_answered",
            "nobody answered this call, so there is nothing to report of it",
            remedy="see its outcome with GET /api/v1/calls/{id}",
        )
    try:
        report = checked(body.result, body.callback_at, zone=zones_of(lead.lead)[0], now=deps.clock.now())
    except ReportRefusedError as error:
        raise field_problem(error.field, error.message, error.remedy) from error
    await attempts.report(call_id, report.result, callback_at=report.callback_at, verdict=settle_lead)
    await deps.changed(caller.tenant_id)
    return CallResultView(result=report.result, callback_at=report.callback_at)
