"""Deepgram Flux stand-in: `GET /v2/listen`. The callee's text comes from the script of the stream's `tag`."""

from __future__ import annotations

import asyncio
import uuid

from aiohttp import web

from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, abort, hang
from serve_app.simulators.flux_parameters import RejectedError, read_parameters
from serve_app.simulators.flux_stream import AudioStore, FluxState, FluxStream
from serve_app.simulators.latency import Delays
from serve_app.simulators.listen import Recogniser
from serve_app.simulators.scripts import SCRIPTS
from serve_app.simulators.timings import TIMINGS
from serve_app.simulators.upgrade import upgrade

FLUX: web.AppKey[FluxState] = web.AppKey("flux", FluxState)


def _refuse(status: int, message: str) -> web.Response:
    headers = {"dg-error": message, "dg-request-id": str(uuid.uuid4())}
    return web.json_response({"err_code": str(status), "err_msg": message}, status=status, headers=headers)


def _authorised(request: web.Request, config: SimulatorConfig) -> bool:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() in ("token", "bearer") and key.strip() not in ("", *config.rejected_keys)


async def listen(request: web.Request) -> web.StreamResponse:
    """The handshake, then one stream."""
    state = request.app[FLUX]
    fault = request.app[FAULTS].take_request("deepgram")
    if fault is not None and fault.kind == "hang":
        await hang(request)
    if fault is not None and fault.kind in ("hang", "disconnect"):
        abort(request)
        return web.Response(status=500)
    if fault is not None and fault.kind == "rate_limited":
        return _refuse(429, "TOO_MANY_REQUESTS")
    if fault is not None and fault.kind == "server_error":
        return _refuse(500, "INTERNAL_SERVER_ERROR")
    if fault is not None or not _authorised(request, state.config):
        return _refuse(401, "INVALID_AUTH")
    try:
        parameters = read_parameters(request.query)
    except RejectedError as error:
        return _refuse(400, str(error))
    await asyncio.sleep(state.delays.draw_s("stt_connect"))
    stream_fault = request.app[FAULTS].take_stream("deepgram", parameters.call_id)
    stream = FluxStream(
        parameters,
        state,
        notes=request.app[TIMINGS].stream(parameters.call_id),
        timings=request.app[TIMINGS],
        scripts=request.app[SCRIPTS],
        fault=stream_fault,
    )
    try:
        upgrade(request, stream)
    except ConnectionResetError:
        return web.Response(status=400)
    await stream.run()
    return web.Response()  # for nobody: the connection is gone


async def get_stt_audio(request: web.Request) -> web.Response:
    """`GET /sim/calls/{call_id}/stt_audio`: the exact bytes that the call's streams received."""
    audio = request.app[FLUX].audio.get(request.match_info["call_id"])
    if audio is None:
        return web.json_response({"error": "no audio was kept for this call"}, status=404)
    return web.Response(body=audio, content_type="application/octet-stream")


def add_flux_routes(app: web.Application, config: SimulatorConfig) -> None:
    """The Flux endpoint and the control route of its received audio."""
    delays = Delays(config.latency, config.seed)
    app[FLUX] = FluxState(config, delays, AudioStore(config.stt_keep_audio_calls), Recogniser())
    app.router.add_get("/v2/listen", listen)
    app.router.add_get("/sim/calls/{call_id}/stt_audio", get_stt_audio)

    async def close_recogniser(app: web.Application) -> None:
        await app[FLUX].recogniser.aclose()

    app.on_cleanup.append(close_recogniser)
