"""The media leg of one simulated call: Vonage's end of the WebSocket. One engine for demo, tests and load.

It sends exactly one frame per 20 ms on absolute deadlines (silence between utterances), plays what it receives from
a bounded buffer at the same ticks, and drops the connection on a frame of any other size, as the real network does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from serve_app.simulators.far_buffer import CAPACITY_FRAMES, FarBuffer
from serve_app.simulators.vad import SPEECH_RMS

FRAME_MS = 20
FRAME_S = FRAME_MS / 1000
OPEN_TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 2.0
STALL_S = 10.0
"""A peer that takes no bytes for this long is lost."""
_WRITE_LIMIT = 1 << 20  # 30 s of audio: a peer that is slow for a moment must not stop the drain
_UTTERANCE_GAP_TICKS = 25  # 500 ms without sound: what follows is another utterance of the agent


class LegConnectFailed(Exception):  # noqa: N818 - an event of the call, not a bug
    """The media socket did not open. `status`: the HTTP status where the server answered with one."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class MediaEndpoint:
    """The websocket endpoint of an NCCO `connect`. `authorization`: the handshake header's value."""

    uri: str
    sample_rate_hz: int
    headers: Mapping[str, Any] = field(default_factory=dict)
    authorization: str | None = None

    @property
    def frame_bytes(self) -> int:
        return self.sample_rate_hz * FRAME_MS // 1000 * 2


@dataclass(frozen=True, slots=True)
class LegOptions:
    """`keep_audio`: keep what was played, silence included (32 kB per second at 16 kHz)."""

    keep_audio: bool = True
    buffer_frames: int = CAPACITY_FRAMES
    fire_dropped_notifies: bool = False


@dataclass(frozen=True, slots=True)
class Utterance:
    """What the callee said. `pcm`: whole frames; it went out without a gap, from the leg's frame `first_frame` on."""

    text: str | None
    pcm: bytes
    sha256: str
    first_frame: int

    @classmethod
    def of(cls, pcm: bytes, text: str | None, frame_bytes: int) -> Utterance:
        """Pad the tail with silence to whole frames and hash the result. `first_frame` is not known yet."""
        padded = pcm + bytes(-len(pcm) % frame_bytes)
        return cls(text, padded, hashlib.sha256(padded).hexdigest(), -1)


EndReason = Literal["far_closed", "near_closed", "wrong_frame_size", "stalled"]


@dataclass(slots=True)
class LegStatistics:
    """Counters of one leg; times are ms since the socket opened."""

    frames_sent: int = 0
    frames_received: int = 0
    wrong_size: int = 0
    unknown_texts: int = 0
    notifies_fired: int = 0
    first_agent_frame_ms: float | None = None
    clears_ms: list[float] = field(default_factory=list)
    max_tick_late_ms: float = 0.0
    """How late this engine itself was at worst: above some 100 ms its other figures say little."""
    end: EndReason | None = None
    close_code: int | None = None


class MediaLeg:
    """One call's media socket. `run` lives as long as the socket; the other methods are called on the same loop."""

    def __init__(self, endpoint: MediaEndpoint, options: LegOptions | None = None) -> None:
        self.endpoint = endpoint
        options = options or LegOptions()
        self.buffer = FarBuffer(
            capacity_frames=options.buffer_frames, fire_dropped_notifies=options.fire_dropped_notifies
        )
        self.stats = LegStatistics()
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
        self._silence = bytes(endpoint.frame_bytes)
        # Sum of squares of one frame at the level that counts as sound.
        self._sound_energy = SPEECH_RMS**2 * (endpoint.frame_bytes // 2)
        self._heard: bytearray | None = bytearray() if options.keep_audio else None
        self._speech: memoryview | None = None
        self._speech_at = 0
        self._texts: deque[str] = deque()
        self._waiter: tuple[Callable[[], bool], asyncio.Future[None]] | None = None
        self._closing = asyncio.Event()

    async def run(self) -> None:
        """Open the socket, exchange audio until either side closes it. Raises LegConnectFailed."""
        ws = await self._open()
        try:
            async with asyncio.TaskGroup() as group:
                pacer = group.create_task(self._pace(ws))
                closer = group.create_task(self._close_when_asked(ws))
                await self._receive(ws)
                pacer.cancel()
                closer.cancel()
        finally:
            self.closed = True
            self.stats.close_code = ws.close_code
            if ws.close_code is None:
                ws.transport.abort()
            self._release_waiter()

    def close(self) -> None:
        """The call is over: close the socket properly."""
        self._closing.set()

    def say(self, utterance: Utterance) -> None:
        """Start to speak at the next tick. The utterance before must be over (`speaking` is False)."""
        if self._speech is not None:
            raise RuntimeError("the callee is still speaking")
        if utterance.pcm:
            self._speech, self._speech_at = memoryview(utterance.pcm), 0
        self.utterances.append(Utterance(utterance.text, utterance.pcm, utterance.sha256, self.stats.frames_sent))

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

    async def _open(self) -> ClientConnection:
        authorization = self.endpoint.authorization
        try:
            return await connect(
                self.endpoint.uri,
                additional_headers={"Authorization": authorization} if authorization else None,
                compression=None,
                proxy=None,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,  # audio flows all the time
                max_queue=64,
                write_limit=_WRITE_LIMIT,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            raise LegConnectFailed(f"the server refused the socket: HTTP {status}", status) from error
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            raise LegConnectFailed(f"the socket did not open: {type(error).__name__}") from error

    def _connected_text(self) -> str:
        # The endpoint's headers are flattened into the top level of the first frame (Vonage voice guide).
        return json.dumps(
            {
                "event": "websocket:connected",
                "content-type": f"audio/l16;rate={self.endpoint.sample_rate_hz}",
                **self.endpoint.headers,
            }
        )

    async def _pace(self, ws: ClientConnection) -> None:
        """Until the socket closes; the end of a stalled one is an abort, which ends the receiver too."""
        try:
            async with asyncio.timeout(STALL_S) as stall:
                await ws.send(self._connected_text())
                await self._ticks(ws, stall)
        except ConnectionClosed:
            return
        except TimeoutError:
            self.stats.end = self.stats.end or "stalled"
            ws.transport.abort()

    async def _ticks(self, ws: ClientConnection, stall: asyncio.Timeout) -> None:
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            next_at += FRAME_S
            # Deadlines are absolute: after a late tick the missed ones follow at once, and none is lost.
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            late_ms = (loop.time() - next_at) * 1000
            if late_ms > self.stats.max_tick_late_ms:
                self.stats.max_tick_late_ms = late_ms
            frame = self._advance()
            await ws.send(frame)
            self.stats.frames_sent += 1
            while self._texts:
                await ws.send(self._texts.popleft())
            if self.tick % 50 == 0:
                stall.reschedule(loop.time() + STALL_S)

    def _advance(self) -> bytes | memoryview:
        """One tick: play a frame, fire what is due, and return the frame to send."""
        self.tick += 1
        played = self.buffer.tick()
        if played is not None:
            self._listen(played)
        if self._heard is not None:
            self._heard += played or self._silence
        due = self.buffer.due
        while due:
            self._texts.append(due.popleft())
            self.stats.notifies_fired += 1
        outgoing = self._next_frame()
        if self._waiter is not None and self._waiter[0]():
            self._release_waiter()
        return outgoing

    def _next_frame(self) -> bytes | memoryview:
        speech = self._speech
        if speech is None:
            return self._silence
        start = self._speech_at
        end = self._speech_at = start + self.endpoint.frame_bytes
        if end >= len(speech):
            self._speech = None
            self.spoke_until_tick = self.tick
        return speech[start:end]

    def _listen(self, frame: bytes) -> None:
        samples = np.frombuffer(frame, dtype="<i2").astype(np.float32)
        if float(samples.dot(samples)) < self._sound_energy:
            return
        latest = self.agent_sound_tick
        if self._cut or latest is None or self.tick - latest > _UTTERANCE_GAP_TICKS:
            self.agent_began_tick, self._cut = self.tick, False
        self.agent_sound_tick = self.tick

    async def _receive(self, ws: ClientConnection) -> None:
        """Until the socket closes. The frame path allocates nothing: the message itself goes into the buffer."""
        frame_bytes, push, stats = self.endpoint.frame_bytes, self.buffer.push, self.stats
        with contextlib.suppress(ConnectionClosed):
            async for message in ws:
                if isinstance(message, str):
                    self._control(message)
                elif len(message) == frame_bytes:
                    stats.frames_received += 1
                    if stats.first_agent_frame_ms is None:
                        stats.first_agent_frame_ms = self.tick * FRAME_MS
                    push(message)
                else:
                    # The vendor's log: "unexpected frame size ... stop listening"; the socket dies with 1006.
                    stats.wrong_size += 1
                    stats.end = "wrong_frame_size"
                    ws.transport.abort()
                    return
        stats.end = stats.end or "far_closed"

    def _control(self, text: str) -> None:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            document = None
        action = document.get("action") if isinstance(document, dict) else None
        if action == "clear":
            self.buffer.clear()
            self.stats.clears_ms.append(self.tick * FRAME_MS)
            self._cut = True
            self._texts.append('{"event":"websocket:cleared"}')
        elif action == "notify" and isinstance(document, dict) and isinstance(document.get("payload"), dict):
            self.buffer.push_notify(json.dumps({"event": "websocket:notify", "payload": document["payload"]}))
        else:
            self.stats.unknown_texts += 1

    async def _close_when_asked(self, ws: ClientConnection) -> None:
        await self._closing.wait()
        self.stats.end = self.stats.end or "near_closed"
        await ws.close()

    def _release_waiter(self) -> None:
        if self._waiter is not None and not self._waiter[1].done():
            self._waiter[1].set_result(None)
