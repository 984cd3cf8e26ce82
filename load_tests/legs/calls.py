"""One call of a leg worker, from asking to its end: by the simulated network's own parts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from load_tests.legs.documents import CallOrder, Script, SocketOpening, VonageOpening
from load_tests.legs.figures import leg_figures, turn_figures
from load_tests.legs.results import NO_LEG
from serve_app.simulators.callee_actor import Callee, Ending, on_the_line
from serve_app.simulators.leg import LegConnectFailed, LegOptions, MediaEndpoint, MediaLeg, Utterance
from serve_app.simulators.network_calls import CallLife
from serve_app.simulators.network_config import NetworkConfig, NetworkFaultBook
from serve_app.simulators.network_state import CallRequest, SimCall
from serve_app.simulators.network_webhooks import CallEvents, WebhookSender

Emit = Callable[[dict[str, Any]], None]


class Announcer:
    """Tells the speech-to-text stand-in what a callee is about to say."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session
        self._tasks: set[asyncio.Task[None]] = set()

    def expect_segments(self, call_id: str, texts: Sequence[str]) -> None:
        task = asyncio.create_task(self._post(call_id, list(texts)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _post(self, call_id: str, texts: list[str]) -> None:
        # Without it the stand-in hears something unintelligible: the call's figures show that.
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            url = f"{self._url}/sim/calls/{call_id}/script"
            async with self._session.post(url, json={"texts": texts}, timeout=aiohttp.ClientTimeout(total=5)):
                pass


class ReportingCallee(Callee):
    """Tells when the call is up, and each turn's figures as soon as the next one begins."""

    def __init__(self, script: Script, announcer: Announcer | None, emit: Emit) -> None:
        super().__init__(script.behaviour(), announcer)
        self._script = script
        self._emit = emit
        self._leg: MediaLeg | None = None
        self._reported = 0

    async def act(self, leg: MediaLeg, call_id: str | None) -> Ending:
        self._leg = leg
        assert leg.timeline is not None
        self._emit({"event": "connected", "at": leg.timeline.opened_at})
        try:
            return await super().act(leg, call_id)
        finally:
            self._report()

    def _tell(self, utterance: Utterance, rate_hz: int, call_id: str | None) -> None:
        self._report()
        super()._tell(utterance, rate_hz, call_id)

    def _report(self) -> None:
        assert self._leg is not None
        figures = turn_figures(self._leg, self._script, self._reported)
        if figures is not None:
            self._reported += 1
            self._emit({"event": "turn", **figures})


class WorkerCall:
    """Runs one call. `run` never raises for a call that fails: the last event, `over`, says how it went."""

    def __init__(self, order: CallOrder, emit: Emit, http: HttpClients) -> None:
        self._order = order
        self._http = http
        self._emit_raw = emit
        script = order.script
        announcer = None if script.announce_url is None else http.announcer(script.announce_url)
        self._callee = ReportingCallee(script, announcer, self._emit)
        self._leg: MediaLeg | None = None
        self._call: SimCall | None = None

    def hang_up(self) -> None:
        """The callee hangs up now."""
        if self._call is not None:
            self._call.callee_hangs_up()
        elif self._leg is not None:
            self._leg.close()

    async def run(self) -> None:
        asked_at = time.monotonic()
        opening = self._order.open
        error: str | None = None
        status: int | None = None
        refused = False
        try:
            if isinstance(opening, SocketOpening):
                await self._by_socket(opening)
            else:
                await self._by_webhook(opening)
        except LegConnectFailed as failed:
            error, status, refused = str(failed), failed.status, failed.status is not None
        if self._call is not None:
            error, status, refused = _verdict(self._call)
            self._leg = self._call.media
        if error is None and self._callee.steps_done < len(self._callee.behaviour.steps):
            end = None if self._leg is None else self._leg.stats.end
            error = f"over after {self._callee.steps_done} of {len(self._callee.behaviour.steps)} steps ({end})"
        opened = self._leg is not None and self._leg.timeline is not None and self._leg.timeline.opened_at is not None
        figures = leg_figures(self._leg, self._order.script) if opened and self._leg is not None else NO_LEG
        times = {"asked_at": asked_at, "over_at": time.monotonic()}
        verdict = {"error": error, "refused": refused, "refused_status": status}
        self._emit({"event": "over", **times, **verdict, **figures})

    def _emit(self, event: dict[str, Any]) -> None:
        self._emit_raw({"id": self._order.id, **event})

    async def _by_socket(self, opening: SocketOpening) -> None:
        """Raises LegConnectFailed."""
        await self._callee.prepare(opening.sample_rate_hz)
        headers = opening.headers_for(self._order.id)
        endpoint = MediaEndpoint(opening.uri, opening.sample_rate_hz, headers, opening.authorization)
        leg = self._leg = MediaLeg(endpoint, LegOptions(keep_audio=False, timeline=True))
        await on_the_line(leg, self._callee, up=lambda: self._order.id, hang_up=leg.close)

    async def _by_webhook(self, opening: VonageOpening) -> None:
        config, sender, faults = self._http.network(opening)
        request = CallRequest(
            direction="inbound",
            from_number=opening.from_.removeprefix("+"),
            to_number=opening.to.removeprefix("+"),
            answer_url=opening.answer_url,
            answer_method=opening.answer_method,
            ncco=None,
            event_url=opening.event_url,
        )
        luck = config.conduct.luck(request.to_number, 1)
        call = self._call = SimCall(request, self._callee, luck)
        events = CallEvents(sender, faults, luck)
        await CallLife(call, config, config.conduct.speed, sender, events, None).run()


def _verdict(call: SimCall) -> tuple[str | None, int | None, bool]:
    """(what went wrong, HTTP status of a refusal, whether the platform refused the call)."""
    if call.media is None and call.problem is None:
        # "All our lines are busy": said by the network, with no media socket behind it.
        return f"refused: {' '.join(call.talk_texts) or 'no media'}", None, True
    return call.problem, call.refused_status, call.refused_status is not None


class HttpClients:
    """HTTP sessions that the calls of one worker share."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(trust_env=False, cookie_jar=aiohttp.DummyCookieJar())
        self._networks: dict[VonageOpening, tuple[NetworkConfig, WebhookSender, NetworkFaultBook]] = {}
        self._announcers: dict[str, Announcer] = {}

    def announcer(self, url: str) -> Announcer:
        return self._announcers.setdefault(url, Announcer(url, self._session))

    def network(self, opening: VonageOpening) -> tuple[NetworkConfig, WebhookSender, NetworkFaultBook]:
        """The network whose account signs the webhooks of this opening."""
        key = opening.model_copy(update={"to": "", "from_": ""})
        if key not in self._networks:
            config = NetworkConfig(
                api_key=opening.api_key,
                application_id=opening.application_id,
                public_key="",  # of REST requests, which nobody sends to a worker
                signature_secret=opening.signature_secret,
                keep_audio=False,
                timeline=True,
            )
            faults = NetworkFaultBook()
            self._networks[key] = (config, WebhookSender(config, faults), faults)
        return self._networks[key]

    async def close(self) -> None:
        await self._session.close()
        for _, sender, _ in self._networks.values():
            await sender.close()
