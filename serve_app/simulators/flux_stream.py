"""One stream of the Flux stand-in: audio and controls in, turn messages out after their latency.

Audio is heard where it arrives, without a queue or a task per message: silence between turns is counted, not computed.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import picows

from serve_app.audio import g711
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import Fault
from serve_app.simulators.flux_parameters import MULTILINGUAL, FluxParameters, RejectedError, check_languages
from serve_app.simulators.flux_turns import Thresholds, TurnDraft, TurnTracker, render
from serve_app.simulators.latency import Delays
from serve_app.simulators.listen import UNINTELLIGIBLE, Recogniser
from serve_app.simulators.scripts import ScriptBook, ScriptedSegment
from serve_app.simulators.timings import StreamNotes, Timings

# Digital silence: G.711 mu-law codes it as 0xFF.
_SILENCE = {"linear16": bytes(1 << 16), "mulaw": b"\xff" * (1 << 16)}
_HANG_S = 600.0
_CLOSE_S = 2.0
_BINARY, _TEXT, _CLOSE = picows.WSMsgType.BINARY, picows.WSMsgType.TEXT, picows.WSMsgType.CLOSE


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


@dataclass(slots=True)
class _Outgoing:
    """A message and when it is due. `draft`: its text may have to be recognised first. `close`: code to close with."""

    due: float
    caused_at: float
    message: dict[str, Any]
    draft: TurnDraft | None = None
    close: int | None = None


class FluxStream(picows.WSListener):
    """Heard by callbacks; `run` sends, and lasts as long as the connection."""

    def __init__(
        self,
        parameters: FluxParameters,
        state: FluxState,
        *,
        notes: StreamNotes,
        timings: Timings,
        scripts: ScriptBook,
        fault: Fault | None,
    ) -> None:
        self._parameters = parameters
        self._state = state
        self._notes = notes
        self._timings = timings
        self._scripts = scripts
        self._fault = fault
        self._language_hints = parameters.language_hints
        self._request_id = str(uuid.uuid4())
        self._tracker = TurnTracker(
            parameters.rate_hz,
            parameters.thresholds,
            next_segment=self._next_segment,
            draw_start_delay_s=lambda: state.delays.draw_s("stt_start_of_turn"),
            draw_eot_delay_s=lambda: state.delays.draw_s("stt_end_of_turn"),
        )
        self._frame_bytes = self._tracker.frame_samples * (2 if parameters.encoding == "linear16" else 1)
        self._silence = _SILENCE[parameters.encoding]
        self._silent_frame = self._silence[: self._frame_bytes]
        self._rest = b""
        self._outbox: asyncio.Queue[_Outgoing | None] = asyncio.Queue()
        self._sequence_id = 0
        self._transport: picows.WSTransport | None = None
        self._gone = asyncio.get_running_loop().create_future()
        self._over = False
        self._hung = False
        self._heard_at = 0.0

    async def run(self) -> None:
        """Send until the stream is over, then until the connection is gone. Bounded where the client hangs on."""
        watch = asyncio.create_task(self._watch(), name="flux idle watch")
        try:
            await self._send_all()
            transport = self._transport
            if transport is not None and not self._hung:
                if not transport.is_close_frame_sent:
                    transport.send_close(picows.WSCloseCode.OK)
                asyncio.get_running_loop().call_later(_CLOSE_S, transport.disconnect, False)
            async with asyncio.timeout(_HANG_S):
                await self._gone
        except TimeoutError:
            return
        finally:
            watch.cancel()
            self._notes.closed = True
            if self._transport is not None:
                self._transport.disconnect(graceful=False)

    # --- the socket's callbacks ---------------------------------------------------------------------------------------

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        self._heard_at = time.monotonic()
        self._put({"type": "Connected"})

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if self._hung:
            return  # not even pings are answered
        kind = frame.msg_type
        if kind is _BINARY or kind is picows.WSMsgType.CONTINUATION:
            if not self._over:
                self._hear(frame.get_payload_as_bytes())
        elif kind is _TEXT:
            if not self._over:
                self._control(frame.get_payload_as_utf8_text())
        elif kind is picows.WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif kind is _CLOSE:
            self._end()
            if not transport.is_close_frame_sent:
                transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._end()
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """A few messages a second: nothing to do."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""

    # --- what arrives -------------------------------------------------------------------------------------------------

    def _hear(self, audio: bytes) -> None:
        # Only audio keeps a Flux stream alive: it has no KeepAlive message.
        self._heard_at = now = time.monotonic()
        self._state.audio.append(self._parameters.call_id, audio)
        if self._rest:
            audio = self._rest + audio
        size, tracker = self._frame_bytes, self._tracker
        frames = len(audio) // size
        self._rest = audio[frames * size :]
        if not tracker.in_turn and audio == self._silence[: len(audio)]:
            for draft in tracker.feed_silence(frames):
                self._report(draft, now)
        else:
            for draft in self._drafts(audio, frames):
                self._report(draft, now)
        if self._fault is not None and tracker.position >= self._fault.after * self._parameters.rate_hz // 4:
            self._break(self._fault)

    def _drafts(self, audio: bytes, frames: int) -> Iterator[TurnDraft]:
        linear, size = self._parameters.encoding == "linear16", self._frame_bytes
        for offset in range(0, frames * size, size):
            frame = audio[offset : offset + size]
            if frame == self._silent_frame:
                yield from self._tracker.feed_silence(1)
            else:
                pcm = frame if linear else g711.mulaw_decode(frame)
                yield from self._tracker.feed(np.frombuffer(pcm, dtype="<i2"))

    def _next_segment(self) -> ScriptedSegment | None:
        told = self._scripts.next_segment(self._parameters.call_id)
        default = self._state.config.stt_default_script
        if told is not None or not default:
            return told
        # A pause inside an utterance must not move the script on: the words came with its first segment.
        text = "" if self._tracker.in_turn else default[self._tracker.turn_index % len(default)]
        return ScriptedSegment(text, more_follows=False)

    def _control(self, text: str) -> None:
        try:
            document = json.loads(text)
            kind = document.get("type")
        except (json.JSONDecodeError, AttributeError):
            self._fail("INVALID_MESSAGE", "text messages must be JSON objects")
            return
        if kind == "CloseStream":
            self._end()
        elif kind == "ForceEndTurn":
            for draft in self._tracker.force_end():
                self._report(draft, time.monotonic())
        elif kind == "Configure":
            self._configure(document)
        else:
            self._fail("UNKNOWN_MESSAGE", f"no message type {kind!r}")

    def _configure(self, document: dict[str, Any]) -> None:
        """Omitted keys keep their value; what is in force is echoed."""
        asked = document.get("thresholds") or {}
        now = self._tracker.thresholds
        eot, eager = asked.get("eot_threshold", now.eot), asked.get("eager_eot_threshold", now.eager)
        timeout_ms = asked.get("eot_timeout_ms", now.timeout_s * 1000)
        hints = document.get("language_hints", self._language_hints)
        try:
            if not (
                0.5 <= eot <= 1.0 and 500 <= timeout_ms <= 60000 and (eager is None or 0.3 <= eager <= min(0.9, eot))
            ):
                raise RejectedError("threshold out of range")
            if hints is not None:
                if self._language_hints is None:
                    raise RejectedError(f"language_hints: only the model {MULTILINGUAL} takes them")
                check_languages(hints)
        except RejectedError as error:
            self._put({"type": "ConfigureFailure", "code": "INVALID_PARAMETER", "description": str(error)})
            return
        self._tracker.thresholds = Thresholds(eot, eager, timeout_ms / 1000)
        self._language_hints = None if hints is None else tuple(hints)
        echo = {"eot_threshold": eot, "eager_eot_threshold": eager, "eot_timeout_ms": timeout_ms}
        done: dict[str, Any] = {"thresholds": {name: value for name, value in echo.items() if value is not None}}
        if hints is not None:
            done["language_hints"] = list(hints)
        self._put({"type": "ConfigureSuccess", **done, "keyterms": document.get("keyterms", [])})

    async def _watch(self) -> None:
        idle_s = self._state.config.stt_idle_close_s
        while not self._over:
            left_s = self._heard_at + idle_s - time.monotonic()
            if left_s <= 0:
                self._fail("INACTIVE_CLIENT", "no audio was received within the idle timeout")
                return
            await asyncio.sleep(left_s)

    # --- outgoing -----------------------------------------------------------------------------------------------------

    def _report(self, draft: TurnDraft, caused_at: float) -> None:
        unknown = draft.needs_text and any(segment.text is None for segment in draft.segments)
        # Rendered now: later frames change the segments of a turn that goes on.
        message = {} if unknown else self._turn_info(draft)
        self._put(message, caused_at, draft)

    def _turn_info(self, draft: TurnDraft) -> dict[str, Any]:
        hinted = {} if self._language_hints is None else {"languages_hinted": list(self._language_hints)}
        return {"type": "TurnInfo", **render(draft, self._parameters.rate_hz), **hinted}

    def _put(
        self,
        message: dict[str, Any],
        caused_at: float | None = None,
        draft: TurnDraft | None = None,
        close: int | None = None,
    ) -> None:
        now = time.monotonic()
        due = now + self._state.delays.draw_s("stt_processing")
        self._outbox.put_nowait(_Outgoing(due, now if caused_at is None else caused_at, message, draft, close))

    def _fail(self, code: str, description: str) -> None:
        self._put({"type": "Error", "code": code, "description": description}, close=1008)
        self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._outbox.put_nowait(None)

    async def _send_all(self) -> None:
        while (entry := await self._outbox.get()) is not None:
            if not entry.message and entry.draft is not None:
                entry.message = await self._recognised(entry.draft)
            wait_s = entry.due - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._send(entry)

    def _send(self, entry: _Outgoing) -> None:
        transport, message = self._transport, entry.message
        if transport is None or transport.is_close_frame_sent or self._hung:
            return
        if self._fault is not None and self._fault.kind == "silent" and message["type"] != "Connected":
            return
        named = {"request_id": self._request_id, **message, "sequence_id": self._sequence_id}
        self._sequence_id += 1
        transport.send(_TEXT, json.dumps(named))
        if entry.draft is not None:
            self._note(entry)
        if entry.close is not None:
            transport.send_close(picows.WSCloseCode(entry.close), message["code"].encode())

    def _note(self, entry: _Outgoing) -> None:
        now, event = time.monotonic(), entry.message["event"]
        self._timings.lateness.add((now - entry.due) * 1000)
        if event == "StartOfTurn":
            note = self._notes.turn(entry.message["turn_index"])
            note.start_of_turn_audio_at, note.start_of_turn_at = entry.caused_at, now
        elif event == "EndOfTurn":
            note = self._notes.turn(entry.message["turn_index"])
            note.text = entry.message["transcript"]
            note.end_of_turn_audio_at, note.end_of_turn_at = entry.caused_at, now

    async def _recognised(self, draft: TurnDraft) -> dict[str, Any]:
        for segment in draft.segments:
            if segment.text is None:
                segment.text = await self._recognise(segment.samples())
                segment.recognised = True
        if not any(segment.text for segment in draft.segments):
            draft.segments[0].text, draft.segments[0].recognised = UNINTELLIGIBLE, True
        return self._turn_info(draft)

    async def _recognise(self, pcm: np.ndarray[Any, np.dtype[np.int16]]) -> str:
        if not self._state.config.recognise:
            return ""
        return (await self._state.recogniser.recognise(pcm, self._parameters.rate_hz)).text

    # --- faults -------------------------------------------------------------------------------------------------------

    def _break(self, fault: Fault) -> None:
        """Apply the stream's fault, which is due."""
        if fault.kind == "silent":
            return
        self._fault = None
        transport = self._transport
        assert transport is not None
        if fault.kind == "unknown_message":
            self._put({"type": "SpeakerChanged", "speaker": 2})
        elif fault.kind == "error_event":
            self._fail("INTERNAL_SERVER_ERROR", "the stand-in was told to fail")
        elif fault.kind == "close":
            transport.send_close(picows.WSCloseCode.INTERNAL_ERROR, b"internal error")
            self._end()
        elif fault.kind == "cut":
            self._end()
            transport.disconnect(graceful=False)
        elif fault.kind == "hang_mid_stream":
            self._hung = True
            self._end()
