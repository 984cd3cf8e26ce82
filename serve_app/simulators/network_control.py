"""The control API of the simulated network, under `/sim/`: for tests and the command line, on this machine only."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Annotated

import numpy as np
from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.audio.wavfile import SoundFileError, encode_sound
from serve_app.simulators.callee import MAX_SOUND_BYTES, CalleeBehaviour
from serve_app.simulators.callee_actor import Callee
from serve_app.simulators.network_conduct import NetworkConduct
from serve_app.simulators.network_config import NetworkFault
from serve_app.simulators.network_exchange import NETWORK
from serve_app.simulators.network_state import CallRequest, SimCall

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _digits(value: object) -> object:
    return value.removeprefix("+") if isinstance(value, str) else value


Number = Annotated[str, BeforeValidator(_digits), StringConstraints(pattern=r"^[1-9]\d{6,14}$")]


def add_control_routes(app: web.Application) -> None:
    routes: list[tuple[str, str, Handler]] = [
        ("PUT", "/sim/callees/{number}", put_callee),
        ("DELETE", "/sim/callees/{number}", delete_callee),
        ("GET", "/sim/calls", get_calls),
        ("GET", "/sim/calls/{uuid}", get_call),
        ("GET", "/sim/calls/{uuid}/heard.wav", get_heard),
        ("GET", "/sim/calls/{uuid}/utterances/{index}.pcm", get_utterance),
        ("GET", "/sim/webhooks", get_webhooks),
        ("PUT", "/sim/network/conduct", put_conduct),
        ("GET", "/sim/network/conduct", get_conduct),
        ("POST", "/sim/inbound", post_inbound),
        ("POST", "/sim/network/faults", post_fault),
        ("GET", "/sim/network/faults", get_faults),
        ("DELETE", "/sim/network/faults", delete_faults),
    ]
    for method, path, handler in routes:
        app.router.add_route(method, path, _local(handler))


def _local(handler: Handler) -> Handler:
    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            local = request.remote is not None and ipaddress.ip_address(request.remote).is_loopback
        except ValueError:
            local = False
        return await handler(request) if local else web.json_response({"error": "this machine only"}, status=403)

    return guarded


async def put_callee(request: web.Request) -> web.Response:
    """Who answers a number from now on. The audio of the steps is made at once: a wrong file is told here, by 422."""
    number = _number(request)
    if number is None:
        return web.json_response({"error": "not a phone number"}, status=422)
    try:
        behaviour = CalleeBehaviour.model_validate_json(await _body(request))
        await Callee(behaviour).prepare(16000)
    except ValidationError as error:
        return _invalid(error)
    except (SoundFileError, FileNotFoundError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=422)
    request.app[NETWORK].callees[number] = behaviour
    return web.json_response({"number": number, "steps": len(behaviour.steps)})


async def delete_callee(request: web.Request) -> web.Response:
    request.app[NETWORK].callees.pop(_number(request) or "", None)
    return web.Response(status=204)


async def get_calls(request: web.Request) -> web.Response:
    network = request.app[NETWORK]
    return web.json_response(
        {
            "create_requests": network.create_requests,
            "throttled": network.throttled,
            "calls": [call.describe() for call in network.calls.values()],
        }
    )


async def get_call(request: web.Request) -> web.Response:
    """By the network's uuid or the platform's call id."""
    call = _find(request)
    return _missing() if call is None else web.json_response(call.describe())


async def get_heard(request: web.Request) -> web.Response:
    """What the callee heard, from the first media frame on, silence included."""
    call = _find(request)
    if call is None or call.media is None:
        return _missing()
    samples = np.frombuffer(call.media.heard_pcm, dtype="<i2")
    body = encode_sound(samples, call.media.endpoint.sample_rate_hz, "wav")
    return web.Response(body=body, content_type="audio/wav")


async def get_utterance(request: web.Request) -> web.Response:
    """The PCM of one utterance of the callee, exactly as it entered the leg."""
    call, index = _find(request), request.match_info["index"]
    if call is None or call.media is None or not index.isdecimal() or int(index) >= len(call.media.utterances):
        return _missing()
    return web.Response(body=call.media.utterances[int(index)].pcm, content_type="application/octet-stream")


async def get_webhooks(request: web.Request) -> web.Response:
    return web.json_response(request.app[NETWORK].sender.describe())


class _Inbound(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_: Number = Field(alias="from")
    to: Number
    behaviour: CalleeBehaviour | None = None


async def post_inbound(request: web.Request) -> web.Response:
    """Somebody calls the platform: the network asks the application's answer URL."""
    network = request.app[NETWORK]
    try:
        document = _Inbound.model_validate_json(await _body(request))
    except ValidationError as error:
        return _invalid(error)
    if network.config.answer_url is None:
        return web.json_response({"error": "the network's configuration has no answer_url"}, status=409)
    call = network.start_call(
        CallRequest(
            direction="inbound",
            from_number=document.from_,
            to_number=document.to,
            answer_url=network.config.answer_url,
            answer_method=network.config.answer_method,
            ncco=None,
            event_url=network.config.event_url,
            region_url=f"{request.scheme}://{request.host}",
        ),
        request.app,
        document.behaviour or network.callees.get(document.from_, network.default_callee),
    )
    return web.json_response({"uuid": call.uuid, "conversation_uuid": call.conversation_uuid}, status=201)


async def put_conduct(request: web.Request) -> web.Response:
    """How the network conducts itself from now on; what is not given is as kind as by default."""
    try:
        conduct = NetworkConduct.model_validate_json(await _body(request))
    except ValidationError as error:
        return _invalid(error)
    request.app[NETWORK].conduct = conduct
    return web.json_response(conduct.model_dump(mode="json"))


async def get_conduct(request: web.Request) -> web.Response:
    return web.json_response(request.app[NETWORK].conduct.model_dump(mode="json"))


async def post_fault(request: web.Request) -> web.Response:
    try:
        fault = NetworkFault.model_validate_json(await _body(request))
    except ValidationError as error:
        return _invalid(error)
    request.app[NETWORK].faults.active.append(fault)
    return web.json_response(fault.model_dump(), status=201)


async def get_faults(request: web.Request) -> web.Response:
    return web.json_response([fault.model_dump() for fault in request.app[NETWORK].faults.active])


async def delete_faults(request: web.Request) -> web.Response:
    request.app[NETWORK].faults.active.clear()
    return web.Response(status=204)


def _number(request: web.Request) -> str | None:
    digits = request.match_info["number"].removeprefix("+")
    return digits if re.fullmatch(r"[1-9]\d{6,14}", digits, re.ASCII) else None


def _find(request: web.Request) -> SimCall | None:
    return request.app[NETWORK].find(request.match_info["uuid"])


async def _body(request: web.Request) -> bytes:
    """Sound files come inside: more than aiohttp's default of 1 MB."""
    limit, body = MAX_SOUND_BYTES * 4 // 3 + 65_536, bytearray()
    async for chunk in request.content.iter_chunked(1 << 18):
        body += chunk
        if len(body) > limit:
            raise web.HTTPRequestEntityTooLarge(max_size=limit, actual_size=len(body))
    return bytes(body)


def _invalid(error: ValidationError) -> web.Response:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return web.json_response({"error": problems}, status=422)


def _missing() -> web.Response:
    return web.json_response({"error": "no such call"}, status=404)
