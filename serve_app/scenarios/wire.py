"""A scenario on the wire, in real time: the session and the real provider clients against the simulators.

Every call has a WebSocket of its own on loopback, held by the simulators' leg, and simulators of its own, which answer
and wait as the scenario says. No Ray, no keys, no records outside of memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pydantic import SecretStr

from serve_app.clock import SystemClock
from serve_app.conversation.lease import CallResult
from serve_app.conversation.lines import LineCache, make_lines
from serve_app.conversation.session import CallSession
from serve_app.errors import UnavailableError
from serve_app.provider_settings import CartesiaSettings, DeepgramSettings, GroqSettings, ProviderSettings
from serve_app.providers.base import AudioFormat, Providers
from serve_app.providers.registry import LANGUAGE_MODELS, SIMULATED_KEY, SYNTHESIZERS, TRANSCRIBERS
from serve_app.scenarios.callee import Callee
from serve_app.scenarios.checks import problems
from serve_app.scenarios.document import Scenario
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.record import CallRecord
from serve_app.scenarios.runner import Played
from serve_app.scenarios.silence import SilenceWatch
from serve_app.scenarios.virtual_call import lease_of
from serve_app.scenarios.wire_line import WireLine, spoken_texts
from serve_app.scenarios.wire_processes import RATE_HZ, MediaServer, Simulators
from serve_app.simulators.leg import MediaEndpoint, MediaLeg
from serve_app.simulators.leg_types import LegConnectFailed, LegOptions
from serve_app.telephony.sockets import CallerSocket
from serve_app.telephony.vonage.wire import VonageLeg

LEAVING_S = 30.0
"""For the call's end after the callee hung up; beyond it the call is stuck."""
_TICK_S = 0.02


async def play_on_the_wire(scenario: Scenario) -> Played:
    """In real time. Raises UnavailableError where the simulators or the socket do not start."""
    began = time.perf_counter()
    async with Simulators.started(scenario) as simulators, _providers(simulators.url, scenario) as providers:
        voice = await simulators.speak(spoken_texts(scenario), language=scenario.agent.language)
        call = _WireCall(scenario, providers)
        if scenario.prepared:
            await call.prepare_lines()
        async with MediaServer.started(call.answer) as server:
            leg = MediaLeg(MediaEndpoint(server.websocket_url, RATE_HZ), LegOptions(keep_audio=False))
            record = call.open()
            line = WireLine(leg, simulators, voice, call_id=call.call_id, clock=record.clock)
            result = await _talk(call, leg, Callee(scenario, line, record))
    if result is not None:
        record.finish(result, call.memory.turns, call.memory.opt_outs)
    stuck = [] if result is not None else ["the call did not end after the callee hung up"]
    failures = [*problems(scenario, record), *stuck]
    return Played(scenario, record, failures, result.duration_s if result else 0.0, time.perf_counter() - began)


async def _talk(call: _WireCall, leg: MediaLeg, callee: Callee) -> CallResult | None:
    """The whole call; None where the session did not end."""
    media = asyncio.create_task(leg.run(), name="leg")
    watching = asyncio.create_task(call.watch_silence(leg), name="silence")
    acting = asyncio.create_task(callee.act(), name="callee")
    try:
        await media
        return await asyncio.wait_for(call.result, LEAVING_S)
    except LegConnectFailed as error:
        raise UnavailableError(f"the scenario's media socket: {error}") from error
    except TimeoutError:
        return None
    finally:
        for task in (watching, acting, media):
            task.cancel()
        found = await asyncio.gather(acting, watching, return_exceptions=True)
        for failure in found:
            if isinstance(failure, Exception):
                raise failure


@asynccontextmanager
async def _providers(url: str, scenario: Scenario) -> AsyncIterator[Providers]:
    """The real clients, pointed at the simulators whatever keys the environment holds."""
    key, sockets = SecretStr(SIMULATED_KEY), url.replace("http://", "ws://", 1)
    settings = ProviderSettings(
        deepgram=DeepgramSettings(api_key=key, base_url=url, websocket_url=sockets),
        groq=GroqSettings(api_key=key, base_url=url),
        cartesia=CartesiaSettings(api_key=key, base_url=url, websocket_url=sockets),
    )
    providers = Providers(
        TRANSCRIBERS["deepgram"](settings), LANGUAGE_MODELS["groq"](settings), SYNTHESIZERS["cartesia"](settings)
    )
    try:
        yield providers
    finally:
        await providers.aclose()


@dataclass
class _HangsUp:
    """Implements `CallControl`: without a REST interface, hanging up is closing the call's own socket."""

    socket: CallerSocket

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        self.socket.close("the agent hung up")


class _WireCall:
    """The session's side of one call."""

    call_id = "scenario"

    def __init__(self, scenario: Scenario, providers: Providers) -> None:
        self._scenario = scenario
        self._providers = providers
        self.memory = Memory()
        self._lines = LineCache()
        self.result: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        self._record: CallRecord | None = None
        self._opened_at = 0.0

    async def prepare_lines(self) -> None:
        """Make the fixed lines, as the platform does before it dials. Raises ProviderError."""
        lease = lease_of(self._scenario.agent, self.call_id)
        audio = AudioFormat("linear16", RATE_HZ)
        await make_lines(self._lines, self._providers.tts.clients[0], lease.tenant_id, lease.agent, audio)

    def open(self) -> CallRecord:
        """The record of the call that begins now."""
        loop = asyncio.get_running_loop()
        self._opened_at = opened_at = loop.time()
        self._record = CallRecord(self._scenario.agent.language, lambda: loop.time() - opened_at, SilenceWatch(0.0))
        return self._record

    async def answer(self, socket: CallerSocket) -> None:
        """Hold the call on this socket to its end."""
        assert self._record is not None
        session = CallSession(
            lease=lease_of(self._scenario.agent, self.call_id),
            leg=VonageLeg(RATE_HZ),
            port=socket,
            providers=self._providers,
            journal=self.memory,
            parts=self.memory,
            control=_HangsUp(socket),
            settings=self._scenario.call,
            clock=SystemClock(),
            lines=self._lines,
            observe=self._record.turn,
        )
        # Accepting binds the sink: the first text frame must not be missed.
        await socket.accept(session)
        talk = asyncio.create_task(session.run())
        try:
            await socket.ended()
        finally:
            result = await asyncio.shield(talk)
            if not self.result.done():
                self.result.set_result(result)

    async def watch_silence(self, leg: MediaLeg) -> None:
        """Every 20 ms of the call, by the network's buffer."""
        assert self._record is not None
        heard: int | None = None
        while not leg.closed:
            sounded = leg.agent_sound_tick
            agent, heard = sounded is not None and sounded != heard, sounded
            self._record.silence.tick(self._record.clock(), agent=agent, callee=leg.speaking)
            await asyncio.sleep(_TICK_S)
