"""Hanging up by command: which way depends on how far the call has come."""

from __future__ import annotations

import asyncio

import structlog

from serve_app.api.deps import ApiDeps
from serve_app.api.problems import ProblemError
from serve_app.api.schemas import HangupView
from serve_app.dialing.endings import end_without_media
from serve_app.store.models import TERMINAL_CALL
from serve_app.store.repositories import AttemptRow, Attempts, CallRow

COMMAND_DEADLINE_S = 3.0
CARRIER_DEADLINE_S = 10.0
log = structlog.get_logger(__name__)


async def hang_up_call(deps: ApiDeps, tenant_id: str, call: CallRow) -> HangupView:
    """End the call. Raises a 409 problem if it has ended, or cannot be reached at this very moment."""
    if call.status in TERMINAL_CALL:
        raise ProblemError(409, "call_ended", "this call has ended already", status_of_call=call.status)
    if call.status == "in_progress" and await _by_mailbox(deps, call):
        return HangupView(id=call.id, status="ending", detail="the session was told to hang up")
    attempt = await Attempts(deps.db, tenant_id).live_of_call(call.id)
    if call.status == "queued" and attempt is not None and attempt.status == "intended":
        if await _cancel_queued(deps, tenant_id, call, attempt):
            return HangupView(id=call.id, status="ended", detail="the call was not placed")
        raise _being_placed()
    carrier_call_id = call.carrier_call_id or (attempt.carrier_call_id if attempt is not None else None)
    if carrier_call_id is None:
        raise _being_placed()
    async with asyncio.timeout(CARRIER_DEADLINE_S):
        await deps.control.hang_up(carrier_call_id, region_url=call.region_url)
    if call.status in ("answered", "in_progress"):
        # Its media socket closes now, and the session writes the end; or the reconciler does, if there is none.
        return HangupView(id=call.id, status="ending", detail="the network was told to end the call")
    await end_without_media(
        deps.db,
        deps.live,
        tenant_id,
        call.id,
        outcome="agent_hung_up",
        detail="hung up before the callee answered",
        slot_id=attempt.id if attempt is not None else call.id,
    )
    await deps.call_ended()
    return HangupView(id=call.id, status="ended", detail="the network was told to stop ringing")


def _being_placed() -> ProblemError:
    return ProblemError(
        409,
        "being_placed",
        "this call is being placed at this moment",
        remedy="try again in a second",
        headers={"Retry-After": "1"},
    )


async def _by_mailbox(deps: ApiDeps, call: CallRow) -> bool:
    try:
        reply = await deps.live.post_command(call.id, {"type": "hangup"}, COMMAND_DEADLINE_S)
    except TimeoutError:
        log.warning("hangup_not_acknowledged", call_id=call.id)
        return False
    return reply.get("ok", True) is True


async def _cancel_queued(deps: ApiDeps, tenant_id: str, call: CallRow, attempt: AttemptRow) -> bool:
    """End a call of which nothing was sent. False: the dialer was faster, and its request is on the way."""
    cancelled = await end_without_media(
        deps.db,
        deps.live,
        tenant_id,
        call.id,
        outcome="agent_hung_up",
        detail="cancelled before it was placed",
        slot_id=attempt.id,
        unsent_only=True,
    )
    if cancelled:
        await deps.call_ended()
    return cancelled
