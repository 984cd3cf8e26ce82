"""The media leg of one simulated call: Vonage's end of the WebSocket. One engine for demo, tests and load.

It sends exactly one frame per 20 ms on absolute deadlines (silence between utterances), plays what it receives from
a bounded buffer at the same ticks, and drops the connection on a frame of any other size, as the real network does.

The frame path is what a load side pays for: one timer for all legs (`ticker.py`), a WebSocket client written in C that
calls back without tasks or futures, no arithmetic on silence, and no waiting for a slow peer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

import picows

from serve_app.simulators.far_buffer import FarBuffer
from serve_app.simulators.leg_types import (
    FRAME_MS,
    EndReason,
    LegConnectFailed,
    LegOptions,
    LegStatistics,
    MediaEndpoint,
    Utterance,
)
from serve_app.simulators.peer_watch import PeerWatch
from serve_app.simulators.ticker import Ticker
from serve_app.simulators.timeline import Timeline
from serve_app.simulators.vad import SoundProbe

__all__ = [
    "CLOSE_TIMEOUT_S",
    "FRAME_MS",
    "EndReason",
    "LegConnectFailed",
    "LegOptions",
    "LegStatistics",
    "MediaEndpoint",
    "MediaLeg",
    "Utterance",
]

OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
STALL_S = 10.0
"""A peer that takes no bytes for this long is lost."""
_CHECK_TICKS = 50
_UTTERANCE_GAP_TICKS = 25  # 500 ms without sound: what follows is another utterance of the agent
_FRAME_OVERHEAD_BYTES = 8  # header and mask of a client's 640-byte message (RFC 6455, 5.2)
_BINARY, _TEXT, _CONTINUATION = picows.WSMsgType.BINARY, picows.WSMsgType.TEXT, picows.WSMsgType.CONTINUATION
_CLOSE = picows.WSMsgType.CLOSE
_ABNORMAL_CLOSURE, _NO_STATUS = 1006, 1005


class _Socket(picows.WSListener):
    """Hands the socket's events to the leg."""

    def __init__(self, leg: MediaLeg) -> None:
        self._leg = leg

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._leg._connected(transport)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        self._leg._received(transport, frame)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        self._leg._disconnected(transport)

    def pause_writing(self) -> None:
        """The leg itself looks at what waits to be written, once a second."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


class MediaLeg:
    """One call's media socket. `run` lives as long as the socket; the other methods are called on the same loop."""

    def __init__(self, endpoint: MediaEndpoint, options: LegOptions | None = None) -> None:
        self.endpoint = endpoint
        options = options or LegOptions()
        self.buffer = FarBuffer(
            capacity_frames=options.buffer_frames, fire_dropped_notifies=options.fire_dropped_notifies
        )
        self.stats = LegStatistics()
        self.timeline = Timeline() if options.timeline else None
        self.utterances: list[Utterance] = []
        self.tick = 0
        """20 ms frames since the socket opened."""
        self.closed = False
        self.agent_began_tick: int | None = None
        """Where the agent's latest utterance began to sound."""
        self.agent_sound_tick: int | None = None
        """The latest tick in which the agent was heard."""
        self.spoke_until_tick = 0
        """Where the callee's latest utterance ended."""
        self._cut = False  # a clear ended the agent's utterance: what sounds next is another one
        self._frame_bytes = endpoint.frame_bytes
        self._silence = bytes(endpoint.frame_bytes)
        self._wire_bytes = endpoint.frame_bytes + _FRAME_OVERHEAD_BYTES
        self._sounds = SoundProbe(endpoint.frame_bytes // 2)
        self._heard: bytearray | None = bytearray() if options.keep_audio else None
        self._speech: memoryview | None = None
        self._speech_at = 0
        self._sound_until = 0
        self._texts: deque[str] = deque()
        self._fragments: tuple[picows.WSMsgType, bytearray] | None = None
        self._waiter: tuple[Callable[[], bool], asyncio.Future[None]] | None = None
        self._transport: picows.WSTransport | None = None
        self._gone: asyncio.Future[None] | None = None
        self._asked_to_close = False
        self._abandoned = False
        self._gaps = 0
        self._peer = PeerWatch()

    async def run(self) -> None:
        """Open the socket, exchange audio until either side closes it. Raises LegConnectFailed."""
        self._gone = asyncio.get_running_loop().create_future()
        ticker = Ticker.of_running_loop()
        try:
            await self._open()
            ticker.add(self)
            if self._asked_to_close:
                self.close()
            await self._gone
        finally:
            self._abandoned = self.closed = True
            ticker.remove(self)
            if self._transport is not None and not self._transport.is_disconnected:
                self._transport.disconnect(graceful=False)
            self._release_waiter()

    def close(self) -> None:
        """The call is over: close the socket properly."""
        self._asked_to_close = True
        transport = self._transport
        if transport is None or transport.is_close_frame_sent or transport.is_disconnected:
            return
        self.stats.end = self.stats.end or "near_closed"
        Ticker.of_running_loop().remove(self)
        transport.send_close(picows.WSCloseCode.OK)
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, transport.disconnect, False)

    def say(self, utterance: Utterance) -> None:
        """Start to speak at the next tick. The utterance before must be over (`speaking` is False)."""
        if self._speech is not None:
            raise RuntimeError("the callee is still speaking")
        if utterance.pcm:
            self._speech, self._speech_at = memoryview(utterance.pcm), 0
            self._sound_until = utterance.sounding_frames * self._frame_bytes
        self.utterances.append(replace(utterance, first_frame=self.stats.frames_sent))

    @property
    def speaking(self) -> bool:
        return self._speech is not None

    def send_dtmf(self, digit: str, duration_ms: int = 260) -> None:
        self._texts.append(json.dumps({"event": "websocket:dtmf", "digit": digit, "duration": duration_ms}))

    def agent_quiet_ticks(self) -> int:
        """Ticks since the agent was last heard (since the start, if never)."""
        return self.tick if self.agent_sound_tick is None else self.tick - self.agent_sound_tick

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for the tick at which `condition` holds; False when the leg ended instead. One waiter at a time.

        The caller bounds it in time; the leg's end always ends it.
        """
        if not self.closed and not condition():
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiter = (condition, future)
            try:
                await future
            finally:
                self._waiter = None
        return not self.closed

    @property
    def heard_pcm(self) -> bytes:
        """What the callee heard from the start, silence included; empty where `keep_audio` is off."""
        return bytes(self._heard or b"")

    @property
    def heard_ms(self) -> float:
        """Length of the agent's audio that was really played."""
        return self.buffer.played * FRAME_MS

    async def _open(self) -> None:
        authorization = self.endpoint.authorization
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await picows.ws_connect(
                    lambda: _Socket(self),
                    self.endpoint.uri,
                    extra_headers={"Authorization": authorization} if authorization else None,
                    websocket_handshake_timeout=OPEN_TIMEOUT_S,
                    max_redirects=0,
                )
        except picows.WSHandshakeError as error:
            status = None if error.response is None else int(error.response.status)
            reason = "the socket did not open: not a WebSocket answer"
            if status is not None:
                reason = f"the server refused the socket: HTTP {status}"
            raise LegConnectFailed(reason, status) from error
        except (OSError, TimeoutError, picows.WSError) as error:
            raise LegConnectFailed(f"the socket did not open: {type(error).__name__}") from error
        if self._transport is None:
            raise LegConnectFailed("the socket did not open: the server closed it")

    def _connected(self, transport: picows.WSTransport) -> None:
        if self._abandoned:
            transport.disconnect(graceful=False)
            return
        self._transport = transport
        if self.timeline is not None:
            self.timeline.opened_at = time.monotonic()
        # The endpoint's headers are flattened into the top level of the first frame (Vonage voice guide).
        first = {
            "event": "websocket:connected",
            "content-type": f"audio/l16;rate={self.endpoint.sample_rate_hz}",
            **self.endpoint.headers,
        }
        transport.send(_TEXT, json.dumps(first))

    def _disconnected(self, transport: picows.WSTransport) -> None:
        self.stats.end = self.stats.end or "far_closed"
        handshake = transport.close_handshake
        received = None if handshake is None else handshake.recv
        code = _ABNORMAL_CLOSURE if received is None else int(received.code.value)
        self.stats.close_code = code or _NO_STATUS
        if self.timeline is not None:
            self.timeline.closed_at = time.monotonic()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    # --- 20 ms --------------------------------------------------------------------------------------------------------

    def on_tick(self, late_ms: float) -> None:
        """One tick: play a frame, fire what is due, send a frame."""
        self.tick += 1
        stats, buffer, transport = self.stats, self.buffer, self._transport
        if late_ms > stats.max_tick_late_ms:
            stats.max_tick_late_ms = late_ms
        played = buffer.tick()
        if played is not None and buffer.sounded:
            self._agent_sounds()
        if self._heard is not None:
            self._heard += played or self._silence
        assert transport is not None
        if self._speech is None:
            transport.send(_BINARY, self._silence)
        else:
            self._send_speech(transport, self._speech)
        stats.frames_sent += 1
        if buffer.due:
            stats.notifies_fired += len(buffer.due)
            self._texts.extend(buffer.due)
            buffer.due.clear()
        while self._texts:
            transport.send(_TEXT, self._texts.popleft())
        if self._waiter is not None:
            self._look_at_waiter(*self._waiter)
        if self.tick % _CHECK_TICKS == 0:
            waiting = transport.underlying_transport.get_write_buffer_size()
            if self._peer.is_lost(time.monotonic(), stats.frames_sent * self._wire_bytes, waiting, STALL_S):
                stats.end = stats.end or "stalled"
                transport.disconnect(graceful=False)

    def _send_speech(self, transport: picows.WSTransport, speech: memoryview) -> None:
        start = self._speech_at
        end = self._speech_at = start + self._frame_bytes
        transport.send(_BINARY, speech[start:end])
        if self.timeline is not None:
            if start == 0:
                self.timeline.turn_began(time.monotonic())
            if end == self._sound_until:
                self.timeline.turn_ended(time.monotonic())
        if end >= len(speech):
            self._speech = None
            self.spoke_until_tick = self.tick

    def _agent_sounds(self) -> None:
        latest = self.agent_sound_tick
        if self._cut or latest is None or self.tick - latest > _UTTERANCE_GAP_TICKS:
            self.agent_began_tick, self._cut = self.tick, False
        self.agent_sound_tick = self.tick
        if self.buffer.gaps != self._gaps:
            self._gaps = self.buffer.gaps
            if self.timeline is not None:
                self.timeline.underrun()

    def _look_at_waiter(self, condition: Callable[[], bool], future: asyncio.Future[None]) -> None:
        try:
            holds = condition()
        except Exception as error:  # noqa: BLE001 - it is the waiter's error: other legs share this tick
            if not future.done():
                future.set_exception(error)
            return
        if holds:
            self._release_waiter()

    # --- what arrives -------------------------------------------------------------------------------------------------

    def _received(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind is _BINARY and frame.fin:
            self._media(transport, frame.get_payload_as_bytes())
        elif kind is _TEXT and frame.fin:
            self._control(frame.get_payload_as_utf8_text())
        elif kind in (_BINARY, _TEXT, _CONTINUATION):
            self._fragment(transport, frame)
        elif kind is _CLOSE:
            if transport.is_close_frame_sent:
                transport.disconnect()
                return
            self.stats.end = self.stats.end or "far_closed"
            Ticker.of_running_loop().remove(self)
            transport.send_close(picows.WSCloseCode.OK)
            transport.disconnect()

    def _fragment(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """A message in several frames (RFC 6455, 5.4)."""
        if self._fragments is None:
            self._fragments = (frame.msg_type, bytearray())
        kind, whole = self._fragments
        whole += frame.get_payload_as_bytes()
        if not frame.fin:
            return
        self._fragments = None
        if kind is _BINARY:
            self._media(transport, bytes(whole))
        elif kind is _TEXT:
            self._control(whole.decode(errors="replace"))

    def _media(self, transport: picows.WSTransport, frame: bytes) -> None:
        stats = self.stats
        if len(frame) != self._frame_bytes:
            # The vendor's log: "unexpected frame size ... stop listening"; the socket dies with 1006.
            stats.wrong_size += 1
            stats.end = stats.end or "wrong_frame_size"
            Ticker.of_running_loop().remove(self)
            transport.disconnect(graceful=False)
            return
        if stats.end is not None:
            return
        stats.frames_received += 1
        if stats.first_agent_frame_ms is None:
            stats.first_agent_frame_ms = self.tick * FRAME_MS
        if frame == self._silence:
            frame, sounds = self._silence, False
        else:
            sounds = self._sounds(frame)
        if self.timeline is not None:
            self.timeline.frame_arrived(time.monotonic(), sounds, self.buffer.frames)
        self.buffer.push(frame, sounds)

    def _control(self, text: str) -> None:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        action = document.get("action") if isinstance(document, dict) else None
        if action == "clear":
            if self.timeline is not None:
                self.timeline.clear_arrived(time.monotonic())
            self.buffer.clear()
            self.stats.clears_ms.append(self.tick * FRAME_MS)
            self._cut = True
            self._texts.append('{"event":"websocket:cleared"}')
        elif action == "notify" and isinstance(document, dict) and isinstance(document.get("payload"), dict):
            self.buffer.push_notify(json.dumps({"event": "websocket:notify", "payload": document["payload"]}))
        else:
            self.stats.unknown_texts += 1

    def _release_waiter(self) -> None:
        if self._waiter is not None and not self._waiter[1].done():
            self._waiter[1].set_result(None)
