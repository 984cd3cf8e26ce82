"""Calls over REST: place, list, read, hang up, watch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from serve_app.api.auth import Caller
from serve_app.api.deps import ApiDeps, Deps
from serve_app.api.hangup import hang_up_call
from serve_app.api.problems import ProblemError, field_problem, not_found
from serve_app.api.schemas import (
    AgentReference,
    CallPage,
    CallRequest,
    CallStatus,
    CallView,
    HangupView,
    LatencyView,
    RecordingView,
    TranscriptView,
    TurnView,
)
from serve_app.dialing.rules import Allow, Defer, Deny, Reason
from serve_app.metrics import CALLS_REQUESTED
from serve_app.store.models import TERMINAL_CALL
from serve_app.store.repositories import (
    Agents,
    CallRow,
    Calls,
    LiveCallExists,
    NotToBeCalled,
    Recordings,
    TurnRow,
    Turns,
)

router = APIRouter(prefix="/api/v1/calls", tags=["calls"])

# How long one read of the live stream waits before the stored status is looked at and a keep-alive is sent.
EVENTS_IDLE_S = 5.0
MOST_WATCHERS = 50
"""Per process: a stream holds one of its request slots, and webhooks must always find one."""
# A call that the network plays to us without a number of our own is simulated; this one is reserved for fiction.
SIMULATED_FROM = "+12025550100"
_AUDIO_TYPES = {"flac": "audio/flac", "wav": "audio/wav"}


@router.post("", status_code=201, response_model=CallView)
async def place_call(body: CallRequest, caller: Caller, deps: Deps) -> CallView:
    """Queue an outbound call. It is placed when the rules, a free session and the network's rate allow."""
    decision = await deps.single_calls.decide(deps.db, caller.tenant_id, body.to, deps.clock.now())
    if not isinstance(decision, Allow):
        raise _denied(decision)
    from_number = _calling_number(body, deps)
    name = body.agent or deps.settings.agents.default
    agent = await Agents(deps.db, caller.tenant_id).get(name)
    if agent is None:
        raise field_problem(
            "agent", f"there is no agent named {name}", "see GET /api/v1/agents, or create it with PUT", code="no_agent"
        )
    give_up_at = deps.clock.now() + timedelta(seconds=deps.settings.dialing.queue_timeout_s)
    try:
        call, _ = await Calls(deps.db, caller.tenant_id).create_outbound(
            to_number=body.to,
            from_number=from_number,
            agent_name=agent.name,
            agent_version=agent.version,
            metadata=dict(body.metadata),
            give_up_at=give_up_at,
        )
    except NotToBeCalled as error:
        raise _denied(Deny(Reason.ON_DO_NOT_CALL_LIST)) from error
    except LiveCallExists as error:
        CALLS_REQUESTED.labels("conflict").inc()
        raise ProblemError(
            409,
            "call_live",
            "a call to this number is being placed or is going on",
            remedy="wait for it to end, or hang it up",
        ) from error
    CALLS_REQUESTED.labels("accepted").inc()
    await deps.call_placed()
    return call_view(call)


def _denied(refusal: Defer | Deny) -> ProblemError:
    CALLS_REQUESTED.labels("denied").inc()
    extra: dict[str, Any] = {"reason": refusal.reason}
    if isinstance(refusal, Defer):
        extra["allowed_from"] = refusal.until.isoformat()
    return ProblemError(403, "not_allowed", f"to: {refusal.explanation}", remedy=refusal.remedy, **extra)


def _calling_number(body: CallRequest, deps: ApiDeps) -> str:
    own = deps.settings.telephony.vonage.from_number
    simulated = deps.single_calls.simulated_network
    if body.from_ is None:
        if own is None and not simulated:
            raise field_problem("from", "no number to call from is configured", "set VONAGE_FROM_NUMBER")
        return own or SIMULATED_FROM
    if simulated or body.from_ == own or body.from_ in deps.settings.agents.numbers:
        return body.from_
    # Showing a number that is not ours is spoofing; the network would refuse it, or worse, not.
    raise field_problem("from", "this number is not one of this platform's", "leave it out, or use a configured number")


@router.get("", response_model=CallPage)
async def list_calls(
    caller: Caller,
    deps: Deps,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the last page")] = None,
    status: CallStatus | None = None,
) -> CallPage:
    """The newest calls first."""
    before = str(cursor) if cursor is not None else None
    rows, following = await Calls(deps.db, caller.tenant_id).list(limit=limit, before=before, status=status)
    return CallPage(items=[call_view(row) for row in rows], next_cursor=following)


@router.get("/{call_id}", response_model=CallView)
async def read_call(call_id: str, caller: Caller, deps: Deps) -> CallView:
    return call_view(await _call(deps, caller.tenant_id, call_id))


@router.get("/{call_id}/transcript", response_model=TranscriptView)
async def read_transcript(call_id: str, caller: Caller, deps: Deps) -> TranscriptView:
    """The turns so far, or all of them once the call has ended."""
    call = await _call(deps, caller.tenant_id, call_id)
    turns = [_turn_view(row) for row in await Turns(deps.db, caller.tenant_id).list(call_id)]
    text = "\n".join(f"{turn.role}: {turn.heard_text or turn.text}" for turn in turns if turn.heard_text or turn.text)
    return TranscriptView(call_id=call.id, status=call_view(call).status, turns=turns, text=text)


@router.get("/{call_id}/recording", response_model=RecordingView)
async def read_recording(
    call_id: str,
    caller: Caller,
    deps: Deps,
    download: bool = False,
    accept: Annotated[str | None, Header()] = None,
) -> RecordingView | Response:
    """What the recording is; the audio itself with `?download=1` or `Accept: audio/*`."""
    call = await _call(deps, caller.tenant_id, call_id)
    row = await Recordings(deps.db, caller.tenant_id).get(call_id)
    if row is None:
        ended = call.status in TERMINAL_CALL
        remedy = (
            "the parts are mixed after the call; try again in a few seconds" if ended else "wait for the call to end"
        )
        if ended and call.started_at is None:
            remedy = "no audio was exchanged in this call, so there is none to record"
        raise ProblemError(404, "no_recording", "this call has no recording", remedy=remedy)
    path = deps.objects.local_path(row.key)
    if not download and not (accept or "").startswith("audio/"):
        return RecordingView(
            call_id=call_id,
            format=row.format,
            channels=row.channels,
            sample_rate_hz=row.sample_rate_hz,
            duration_s=row.duration_s,
            bytes=row.bytes,
            peaks=row.peaks,
            download_url=f"{deps.settings.public_url}/api/v1/calls/{call_id}/recording?download=1",
            path=str(path) if path is not None else None,
        )
    media_type = _AUDIO_TYPES.get(row.format, "application/octet-stream")
    name = f"{call_id}.{row.format}"
    if path is not None and await asyncio.to_thread(path.is_file):
        return FileResponse(path, media_type=media_type, filename=name)
    try:
        audio = await deps.objects.get(row.key)
    except FileNotFoundError as error:
        raise ProblemError(404, "no_recording", "the recording of this call was deleted") from error
    return Response(audio, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'})


@router.post("/{call_id}/hangup", response_model=HangupView)
async def hang_up(call_id: str, caller: Caller, deps: Deps) -> HangupView:
    """End the call, whatever it is doing. 409 if it has ended already."""
    call = await _call(deps, caller.tenant_id, call_id)
    return await hang_up_call(deps, caller.tenant_id, call)


@router.get("/{call_id}/events", response_class=StreamingResponse)
async def watch_call(
    request: Request,
    call_id: str,
    caller: Caller,
    deps: Deps,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,20}(-\d{1,20})?$")] = None,
) -> StreamingResponse:
    """Server-sent events of a call from its beginning (or after `Last-Event-ID`) until it ends with event `end`."""
    await _call(deps, caller.tenant_id, call_id)
    if request.app.state.watchers >= MOST_WATCHERS:
        raise ProblemError(
            503,
            "too_many_watchers",
            f"{MOST_WATCHERS} event streams are open already",
            remedy="close one, or ask for the transcript instead",
        )
    stream = _counted(request, _events(deps, caller.tenant_id, call_id, last_event_id or "0"))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


async def _counted(request: Request, stream: AsyncIterator[str]) -> AsyncIterator[str]:
    request.app.state.watchers += 1
    try:
        async for piece in stream:
            yield piece
    finally:
        request.app.state.watchers -= 1


async def _events(deps: ApiDeps, tenant_id: str, call_id: str, last_id: str) -> AsyncIterator[str]:
    while True:
        # Asked before the stream is read: what was published before the call ended is then still delivered.
        call = await Calls(deps.db, tenant_id).get(call_id)
        ended = call is None or call.status in TERMINAL_CALL
        idle_s = 0.2 if ended else EVENTS_IDLE_S
        async with aclosing(deps.live.follow(call_id, last_id, idle_timeout_s=idle_s)) as published:
            async for event_id, event in published:
                last_id = event_id
                yield _sse(event, event=str(event.get("type", "message")), event_id=event_id)
                if event.get("type") == "finished":
                    break
        if ended:
            view = call_view(call).model_dump(mode="json", by_alias=True) if call is not None else {}
            yield _sse(view, event="end")
            return
        yield ": keep-alive\n\n"


def _sse(data: dict[str, Any], *, event: str, event_id: str | None = None) -> str:
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: {json.dumps(data, separators=(',', ':'), default=str)}\n\n"


async def _call(deps: ApiDeps, tenant_id: str, call_id: str) -> CallRow:
    row = await Calls(deps.db, tenant_id).get(call_id)
    if row is None:
        raise not_found("call")
    return row


def call_view(row: CallRow) -> CallView:
    return CallView.model_validate(
        {
            "id": row.id,
            "status": row.status,
            "outcome": row.outcome,
            "detail": row.detail,
            "direction": row.direction,
            "to": row.to_number,
            "from_": row.from_number,
            "agent": AgentReference(name=row.agent_name, version=row.agent_version),
            "metadata": row.metadata,
            "created_at": row.created_at,
            "answered_at": row.answered_at,
            "started_at": row.started_at,
            "ended_at": row.ended_at,
            "duration_s": row.duration_s,
            "opted_out_at": row.opted_out_at,
        }
    )


def _turn_view(row: TurnRow) -> TurnView:
    return TurnView.model_validate(
        {
            "index": row.index,
            "role": row.role,
            "text": row.text,
            "heard_text": row.heard_text,
            "started_ms": row.started_ms,
            "ended_ms": row.ended_ms,
            "approximate": row.approximate,
            "interrupted": row.interrupted,
            "latency": LatencyView.model_validate(dict(row.latency)),
        }
    )
