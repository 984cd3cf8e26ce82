"""The simulated Vonage network on one aiohttp application: the Voice API, and the calls behind it.

As strict as the real one where that is known: RS256 tokens, validation, a rolling limit of create-call requests that
queues nothing, webhooks signed with the payload's hash.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import jwt
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.simulators.faults import abort, hang
from serve_app.simulators.network_config import NetworkConfig, RollingLimit
from serve_app.simulators.network_control import add_control_routes
from serve_app.simulators.network_exchange import NETWORK, Network
from serve_app.simulators.network_state import CallRequest

WireNumber = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{6,14}$")]
_PAGE_SIZE_MAX = 100


def add_network_routes(app: web.Application, config: NetworkConfig) -> Network:
    """The Voice API under `/v1/calls`, the control API under `/sim/`.

    What callees say is told to `app[SCRIPTS]`, if the application has one.
    """
    network = app[NETWORK] = Network(config)
    app.cleanup_ctx.append(network.run)
    app.router.add_post("/v1/calls", post_call)
    app.router.add_get("/v1/calls", list_calls)
    app.router.add_get("/v1/calls/{uuid}", get_call)
    app.router.add_put("/v1/calls/{uuid}", put_call)
    add_control_routes(app)
    return network


# --- the Voice API --------------------------------------------------------------------------------------------------


class _Open(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Phone(_Open):
    type: Literal["phone"]
    number: WireNumber


class _CreateCall(_Open):
    to: list[_Phone] = Field(min_length=1, max_length=1)
    from_: _Phone = Field(alias="from")
    answer_url: list[Annotated[str, StringConstraints(pattern=r"^https?://")]] | None = Field(None, min_length=1)
    answer_method: Literal["GET", "POST"] = "GET"
    ncco: list[dict[str, Any]] | None = Field(None, min_length=1)
    event_url: list[Annotated[str, StringConstraints(pattern=r"^https?://")]] | None = Field(None, min_length=1)
    event_method: Literal["GET", "POST"] = "POST"
    ringing_timer: int = Field(60, ge=1, le=120)
    length_timer: int = Field(7200, ge=1, le=86400)
    machine_detection: Literal["continue", "hangup"] | None = None
    advanced_machine_detection: dict[str, Any] | None = None


async def post_call(request: web.Request) -> web.StreamResponse:
    """`POST /v1/calls` -> 201. The call begins even if a fault loses the answer."""
    network = request.app[NETWORK]
    network.create_requests += 1
    body = await request.read()
    fault = network.faults.take_rest("create")
    refused = await _refuse(request, fault, network.creates)
    if refused is not None:
        return refused
    try:
        document = _CreateCall.model_validate_json(body)
        if (document.answer_url is None) == (document.ncco is None):
            return _bad_request({"answer_url": "either answer_url or ncco"})
    except ValidationError as error:
        return _bad_request({".".join(map(str, item["loc"])) or "body": item["msg"] for item in error.errors()})
    call = network.start_call(
        CallRequest(
            direction="outbound",
            from_number=document.from_.number,
            to_number=document.to[0].number,
            answer_url=document.answer_url[0] if document.answer_url else None,
            answer_method=document.answer_method,
            ncco=document.ncco,
            event_url=document.event_url[0] if document.event_url else network.config.event_url,
            ringing_timer_s=document.ringing_timer,
            length_timer_s=document.length_timer,
            machine_detection=_detection(document),
            ends_at_machine=_ends_at_machine(document),
            region_url=f"{request.scheme}://{request.host}",
        ),
        request.app,
    )
    if fault is None and call.luck.loses_response():
        fault = "lost_response_reset"
    if (lost := await _lose(request, fault)) is not None:
        return lost
    return web.json_response(
        {
            "uuid": call.uuid,
            "status": "started",
            "direction": "outbound",
            "conversation_uuid": call.conversation_uuid,
        },
        status=201,
    )


def _detection(document: _CreateCall) -> Literal["standard", "advanced"] | None:
    if document.advanced_machine_detection is not None:
        return "advanced"
    return "standard" if document.machine_detection is not None else None


def _ends_at_machine(document: _CreateCall) -> bool:
    if document.advanced_machine_detection is not None:
        return document.advanced_machine_detection.get("behavior") == "hangup"
    return document.machine_detection == "hangup"


async def put_call(request: web.Request) -> web.StreamResponse:
    """`PUT /v1/calls/{uuid}`: only `hangup` is simulated."""
    network = request.app[NETWORK]
    body = await request.read()
    fault = network.faults.take_rest("update")
    refused = await _refuse(request, fault, network.others)
    if refused is not None:
        return refused
    call = network.remembered(request.match_info["uuid"])
    if call is None:
        return _problem(404, "NOT_FOUND", "Not Found")
    try:
        action = _Action.model_validate_json(body)
    except ValidationError:
        return _bad_request({"action": "only hangup is simulated"})
    if call.over:
        return _bad_request({action.action: "the call is over"})
    call.hang_up.set()
    if (lost := await _lose(request, fault)) is not None:
        return lost
    return web.Response(status=204)


class _Action(_Open):
    action: Literal["hangup"]


async def get_call(request: web.Request) -> web.StreamResponse:
    network = request.app[NETWORK]
    refused = await _refuse(request, network.faults.take_rest("read"), network.others)
    if refused is not None:
        return refused
    call = network.remembered(request.match_info["uuid"])
    return _problem(404, "NOT_FOUND", "Not Found") if call is None else web.json_response(call.to_api())


class _ListFilter(_Open):
    status: str | None = None
    date_start: datetime | None = None
    date_end: datetime | None = None
    page_size: int = Field(10, ge=1, le=_PAGE_SIZE_MAX)
    record_index: int = Field(0, ge=0)
    order: Literal["asc", "desc"] = "asc"
    conversation_uuid: str | None = None


async def list_calls(request: web.Request) -> web.StreamResponse:
    """`GET /v1/calls`, paged as HAL. It cannot filter by number, as the real one cannot."""
    network = request.app[NETWORK]
    refused = await _refuse(request, network.faults.take_rest("read"), network.others)
    if refused is not None:
        return refused
    try:
        wanted = _ListFilter.model_validate(dict(request.query))
    except ValidationError as error:
        return _bad_request({".".join(map(str, item["loc"])): item["msg"] for item in error.errors()})
    start, end = _aware(wanted.date_start), _aware(wanted.date_end)
    found = [
        call
        for call in network.listed()
        if (wanted.status in (None, call.status))
        and (start is None or call.created_at >= start)
        and (end is None or call.created_at <= end)
        and wanted.conversation_uuid in (None, call.conversation_uuid)
    ]
    if wanted.order == "desc":
        found.reverse()
    page = found[wanted.record_index : wanted.record_index + wanted.page_size]
    return web.json_response(
        {
            "count": len(found),
            "page_size": wanted.page_size,
            "record_index": wanted.record_index,
            "_links": {"self": {"href": str(request.rel_url)}},
            "_embedded": {"calls": [call.to_api() for call in page]},
        }
    )


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


async def _refuse(request: web.Request, fault: str | None, limit: RollingLimit) -> web.StreamResponse | None:
    """The answer to a request that is not carried out, None for one that is."""
    if fault == "hang":
        await hang(request)
    if fault in ("hang", "disconnect"):
        abort(request)
        return web.Response(status=500)
    if fault == "server_error":
        return _problem(500, "INTERNAL_ERROR", "Internal Server Error")
    if fault == "unauthorized" or not _authorized(request):
        return _problem(401, "UNAUTHORIZED", "Unauthorized")
    if fault == "rate_limited" or not limit.grant():
        request.app[NETWORK].throttled += 1
        return web.json_response(
            {
                "type": "https://developer.vonage.com/api-errors#throttled",
                "title": "Rate Limit Hit",
                "detail": "Please wait, then retry your request",
                "instance": "simulated",
            },
            status=429,
        )
    return None


async def _lose(request: web.Request, fault: str | None) -> web.StreamResponse | None:
    if fault not in ("lost_response", "lost_response_reset"):
        return None
    if fault == "lost_response":
        await hang(request)
    abort(request)
    return web.Response(status=500)


def _authorized(request: web.Request) -> bool:
    config = request.app[NETWORK].config
    match = re.fullmatch(r"Bearer ([\w.-]+)", request.headers.get("Authorization", ""), re.ASCII)
    if match is None:
        return False
    try:
        claims = jwt.decode(
            match.group(1),
            config.public_key,
            algorithms=["RS256"],
            leeway=30,
            options={"require": ["iat", "exp", "jti"], "verify_aud": False},
        )
    except jwt.PyJWTError:
        return False
    return bool(claims.get("application_id") == config.application_id)


def _problem(status: int, kind: str, title: str) -> web.Response:
    return web.json_response({"type": kind, "error_title": title}, status=status)


def _bad_request(invalid: dict[str, str]) -> web.Response:
    return web.json_response(
        {"type": "BAD_REQUEST", "error_title": "Bad Request", "invalid_parameters": invalid}, status=400
    )
