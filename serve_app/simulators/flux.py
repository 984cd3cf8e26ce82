"""Deepgram Flux stand-in: `GET /v2/listen`. The callee's text comes from the script of the stream's `tag`."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import WSMsgType, web

from serve_app.audio import g711
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, Fault, abort, hang
from serve_app.simulators.flux_parameters import FluxParameters, RejectedError, read_parameters
from serve_app.simulators.flux_turns import Thresholds, TurnDraft, TurnTracker, render
from serve_app.simulators.latency import Delays
from serve_app.simulators.listen import UNINTELLIGIBLE, Recogniser
from serve_app.simulators.scripts import SCRIPTS

_INBOX_MESSAGES = 2000


class AudioStore:
    """The bytes that each call's stream received, in order; the oldest calls are forgotten."""

    def __init__(self, calls: int) -> None:
        self._limit = calls
        self._calls: OrderedDict[str, bytearray] = OrderedDict()

    def append(self, call_id: str, audio: bytes) -> None:
        if self._limit == 0:
            return
        self._calls.setdefault(call_id, bytearray()).extend(audio)
        while len(self._calls) > self._limit:
            self._calls.popitem(last=False)

    def get(self, call_id: str) -> bytes | None:
        found = self._calls.get(call_id)
        return None if found is None else bytes(found)


@dataclass(frozen=True, slots=True)
class FluxState:
    """What all streams of one application share."""

    config: SimulatorConfig
    delays: Delays
    audio: AudioStore
    recogniser: Recogniser


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
    # No compression: deflating audio only burns CPU on both sides.
    socket = web.WebSocketResponse(compress=False, max_msg_size=1 << 20)
    await socket.prepare(request)
    stream_fault = request.app[FAULTS].take_stream("deepgram", parameters.call_id)
    await _Stream(request, socket, state, parameters, stream_fault).run()
    return socket


@dataclass(slots=True)
class _Stream:
    """One stream: a receiver that always reads (and so answers pings), a listener, and a sender that keeps latency."""

    request: web.Request
    socket: web.WebSocketResponse
    state: FluxState
    parameters: FluxParameters
    fault: Fault | None
    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    _inbox: asyncio.Queue[bytes | str | None] = field(default_factory=lambda: asyncio.Queue(_INBOX_MESSAGES))
    _outbox: asyncio.Queue[tuple[float, dict[str, Any]] | None] = field(default_factory=asyncio.Queue)
    _sequence_id: int = 0
    _rest: bytes = b""
    _over: bool = False
    _hung: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        self._put({"type": "Connected"})
        async with asyncio.TaskGroup() as group:
            receiver = group.create_task(self._receive())
            sender = group.create_task(self._send())
            await self._listen()
            self._outbox.put_nowait(None)
            await sender
            if self._hung.is_set():
                # Without a reader not even pings are answered.
                receiver.cancel()
                await hang(self.request)
            elif not self.socket.closed:
                await self.socket.close()
            receiver.cancel()

    async def _receive(self) -> None:
        """Everything that the client sends, until it closes, stays silent too long, or the fault says stop."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.state.config.stt_idle_close_s
        while not self._hung.is_set():
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self.socket.receive()
            except TimeoutError:
                self._fail("INACTIVE_CLIENT", "no audio was received within the idle timeout")
                break
            if message.type is WSMsgType.BINARY:
                # Only audio keeps a Flux stream alive: it has no KeepAlive message.
                deadline = loop.time() + self.state.config.stt_idle_close_s
                self.state.audio.append(self.parameters.call_id, message.data)
                await self._inbox.put(message.data)
            elif message.type is WSMsgType.TEXT:
                await self._inbox.put(message.data)
            else:
                break
        await self._inbox.put(None)

    async def _listen(self) -> None:
        tracker = TurnTracker(
            self.parameters.rate_hz,
            self.parameters.thresholds,
            next_segment=lambda: self.request.app[SCRIPTS].next_segment(self.parameters.call_id),
            draw_start_delay_s=lambda: self.state.delays.draw_s("stt_start_of_turn"),
            draw_eot_delay_s=lambda: self.state.delays.draw_s("stt_end_of_turn"),
        )
        while not self._over:
            message = await self._inbox.get()  # ends with None: the receiver has a deadline
            if message is None:
                return
            if isinstance(message, str):
                await self._control(message, tracker)
                continue
            for frame in self._frames(message, tracker.frame_samples):
                for draft in tracker.feed(frame):
                    await self._report(draft)
            if self._fault_is_due(tracker.position):
                await self._break()

    def _frames(self, audio: bytes, frame_samples: int) -> list[np.ndarray[Any, np.dtype[np.int16]]]:
        audio = self._rest + audio
        linear = self.parameters.encoding == "linear16"
        size = frame_samples * (2 if linear else 1)
        usable = len(audio) // size * size
        self._rest = audio[usable:]
        pcm = audio[:usable] if linear else g711.mulaw_decode(audio[:usable])
        return list(np.frombuffer(pcm, dtype="<i2").reshape(-1, frame_samples))

    async def _control(self, text: str, tracker: TurnTracker) -> None:
        try:
            document = json.loads(text)
            kind = document.get("type")
        except (json.JSONDecodeError, AttributeError):
            self._fail("INVALID_MESSAGE", "text messages must be JSON objects")
            return
        if kind == "CloseStream":
            self._over = True
        elif kind == "ForceEndTurn":
            for draft in tracker.force_end():
                await self._report(draft)
        elif kind == "Configure":
            self._configure(document, tracker)
        else:
            self._fail("UNKNOWN_MESSAGE", f"no message type {kind!r}")

    def _configure(self, document: dict[str, Any], tracker: TurnTracker) -> None:
        """Omitted keys keep their value; what is in force is echoed."""
        asked = document.get("thresholds") or {}
        now = tracker.thresholds
        eot, eager = asked.get("eot_threshold", now.eot), asked.get("eager_eot_threshold", now.eager)
        timeout_ms = asked.get("eot_timeout_ms", now.timeout_s * 1000)
        valid = 0.5 <= eot <= 1.0 and 500 <= timeout_ms <= 60000 and (eager is None or 0.3 <= eager <= min(0.9, eot))
        if not valid:
            self._put(
                {"type": "ConfigureFailure", "code": "INVALID_PARAMETER", "description": "threshold out of range"}
            )
            return
        tracker.thresholds = Thresholds(eot, eager, timeout_ms / 1000)
        echo = {"eot_threshold": eot, "eager_eot_threshold": eager, "eot_timeout_ms": timeout_ms}
        thresholds = {name: value for name, value in echo.items() if value is not None}
        self._put({"type": "ConfigureSuccess", "thresholds": thresholds, "keyterms": document.get("keyterms", [])})

    async def _report(self, draft: TurnDraft) -> None:
        if draft.needs_text:
            for segment in draft.segments:
                if segment.text is None:
                    segment.text = await self._recognise(segment.samples())
                    segment.recognised = True
            if not any(segment.text for segment in draft.segments):
                draft.segments[0].text, draft.segments[0].recognised = UNINTELLIGIBLE, True
        self._put({"type": "TurnInfo", **render(draft, self.parameters.rate_hz)})

    async def _recognise(self, pcm: np.ndarray[Any, np.dtype[np.int16]]) -> str:
        if not self.state.config.recognise:
            return ""
        return (await self.state.recogniser.recognise(pcm, self.parameters.rate_hz)).text

    # --- outgoing ---------------------------------------------------------------------------------------------------

    def _put(self, message: dict[str, Any]) -> None:
        due = asyncio.get_running_loop().time() + self.state.delays.draw_s("stt_processing")
        self._outbox.put_nowait((due, message))

    def _fail(self, code: str, description: str) -> None:
        self._put({"type": "Error", "code": code, "description": description, "close": 1008})
        self._over = True

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while (entry := await self._outbox.get()) is not None:
            due, message = entry
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self.socket.closed or self._hung.is_set():
                continue
            if self.fault is not None and self.fault.kind == "silent" and message["type"] != "Connected":
                continue
            close_code = message.pop("close", None)
            named = {"request_id": self.request_id, **message, "sequence_id": self._sequence_id}
            self._sequence_id += 1
            try:
                await self.socket.send_json(named)
                if close_code is not None:
                    await self.socket.close(code=close_code, message=message["code"].encode())
            except ConnectionError:
                return

    # --- faults -----------------------------------------------------------------------------------------------------

    def _fault_is_due(self, position: int) -> bool:
        fault = self.fault
        return fault is not None and position >= fault.after * self.parameters.rate_hz // 4

    async def _break(self) -> None:
        fault, self.fault = self.fault, None
        if fault is None:
            return
        if fault.kind == "silent":
            self.fault = fault
        elif fault.kind == "unknown_message":
            self._put({"type": "SpeakerChanged", "speaker": 2})
        elif fault.kind == "error_event":
            self._fail("INTERNAL_SERVER_ERROR", "the stand-in was told to fail")
        elif fault.kind == "close":
            self._over = True
            await self.socket.close(code=1011, message=b"internal error")
        elif fault.kind == "cut":
            self._over = True
            abort(self.request)
        elif fault.kind == "hang_mid_stream":
            self._over = True
            self._hung.set()


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
