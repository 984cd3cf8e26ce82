"""One aiohttp application with every stand-in: Deepgram, Groq or OpenAI, Cartesia, and the phone network."""

from __future__ import annotations

from aiohttp import web

from serve_app.simulators.cartesia import (
    CARTESIA,
    CartesiaState,
    get_state,
    prepare_speech,
    tts_bytes,
    tts_sse,
    voice,
    voices,
)
from serve_app.simulators.cartesia_socket import tts_websocket
from serve_app.simulators.chat import add_chat_routes
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, FaultBook, delete_faults, get_faults, post_fault
from serve_app.simulators.flux import add_flux_routes
from serve_app.simulators.latency import Delays
from serve_app.simulators.network import add_network_routes
from serve_app.simulators.scripts import SCRIPTS, ScriptBook, post_script
from serve_app.simulators.timings import TIMINGS, Timings, get_timings


async def _ready(request: web.Request) -> web.Response:
    config = request.app[CARTESIA].config
    return web.json_response({"ready": True, "profile": config.profile, "fixed_wait_ms": config.fixed_wait_ms})


def make_app(config: SimulatorConfig | None = None) -> web.Application:
    """The application. `app[SCRIPTS]` and `app[FAULTS]` are its switches for code in the same process."""
    config = config or SimulatorConfig()
    app = web.Application(client_max_size=64 << 20)
    app[SCRIPTS] = ScriptBook()
    app[FAULTS] = FaultBook()
    app[TIMINGS] = Timings()
    app[CARTESIA] = CartesiaState(config, Delays(config.latency, config.seed + 2))
    app.on_startup.append(prepare_speech)
    app.router.add_get("/sim/ready", _ready)
    app.router.add_post("/sim/calls/{call_id}/script", post_script)
    app.router.add_get("/sim/timings", get_timings)
    app.router.add_get("/sim/faults", get_faults)
    app.router.add_post("/sim/faults", post_fault)
    app.router.add_delete("/sim/faults", delete_faults)
    add_flux_routes(app, config)
    add_chat_routes(app, config)
    app.router.add_get("/tts/websocket", tts_websocket)
    app.router.add_post("/tts/bytes", tts_bytes)
    app.router.add_post("/tts/sse", tts_sse)
    app.router.add_get("/voices", voices)
    app.router.add_get("/voices/{id}", voice)
    app.router.add_get("/sim/tts", get_state)
    if config.network is not None:
        add_network_routes(app, config.network)
    return app
