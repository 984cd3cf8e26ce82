"""The phone network and the callee's phone on virtual time, as Vonage's WebSocket shows them to a session."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.conversation.session import CallSession
from serve_app.scenarios.silence import SilenceWatch
from serve_app.scenarios.vocabulary import FRAME_BYTES, FRAME_S, RATE_HZ, SoundingWord, Vocabulary
from serve_app.simulators.far_buffer import FarBuffer
from serve_app.telephony.base import WireMessage

QUIET_FRAME = bytes(FRAME_BYTES)
UTTERANCE_GAP_S = 0.5
"""What the agent says after so long without sound is another utterance."""
_HANG_UP_S = 0.05


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class HeardWord:
    """A word of the agent's that the callee heard, at least a part of it."""

    word: SoundingWord
    began_at: float
    ended_at: float
    samples: int = 0

    @property
    def whole(self) -> bool:
        return self.samples >= self.word.samples


class VirtualNetwork:
    """Plays one frame per 20 ms from its buffer, sends one, confirms marks. `MediaPort` and `CallControl` at once."""

    def __init__(self, words: Vocabulary, *, confirms: bool = True, connects: bool = True) -> None:
        """`confirms`: marks come back. `connects`: the media socket tells its format."""
        self.session: CallSession | None = None
        self._words = words
        self._connects = connects
        self._confirms = confirms
        self._buffer = FarBuffer()
        self._voice: deque[bytes] = deque()
        self.sent = bytearray()
        self.heard_frames = 0
        self.heard: list[HeardWord] = []
        self.clears = 0
        self.largest_send = 0
        self.hang_ups: list[str] = []
        self.closed: str | None = None
        self.agent_began_at: float | None = None
        self.agent_sounded_at: float | None = None
        self._cut = False
        self.opened_at = self.quiet_since = now()
        self.silence = SilenceWatch(0.0)
        """On the call's clock: seconds since `opened_at`."""

    # --- what the session calls ---

    def send(self, *messages: WireMessage) -> None:
        if self.closed is not None:
            return
        self.largest_send = max(self.largest_send, sum(isinstance(m, bytes) for m in messages))
        for message in messages:
            if message == '{"action":"clear"}':
                self.clears += 1
                self._cut = True
                self._buffer.clear()
                self._deliver('{"event":"websocket:cleared"}')
            elif isinstance(message, bytes):
                self._buffer.push(message)
            else:
                self._buffer.push_notify(message)

    def close(self, reason: str) -> None:
        self._end(reason)

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        self.hang_ups.append(carrier_call_id)
        await asyncio.sleep(_HANG_UP_S)
        self._end("the caller's socket closed with code 1000")

    # --- what the callee does ---

    def drop(self, code: int = 1006) -> None:
        """The line is gone; 1000: the callee hung up."""
        self._end(f"the caller's socket closed with code {code}")

    def say(self, *segments: str, word_s: float = 0.4, pause_s: float = 0.0, confidence: float = 1.0) -> None:
        """Speak from the next frame on: one utterance, its segments with a pause of `pause_s` between them."""
        for number, segment in enumerate(segments):
            last_segment = number == len(segments) - 1
            texts = segment.split()
            for i, text in enumerate(texts):
                more_follows = i == len(texts) - 1 and not last_segment
                self._queue(self._words.sound(text, word_s, confidence=confidence, more_follows=more_follows)[1])
            if not last_segment:
                self._voice.extend([QUIET_FRAME] * round(pause_s / FRAME_S))

    def noise(self, seconds: float) -> None:
        """Sound without words, from the next frame on."""
        self._queue(self._words.sound("", seconds)[1])

    def _queue(self, pcm: bytes) -> None:
        pcm += bytes(-len(pcm) % FRAME_BYTES)
        self._voice.extend(pcm[start : start + FRAME_BYTES] for start in range(0, len(pcm), FRAME_BYTES))

    @property
    def underruns(self) -> int:
        """Gaps of up to 400 ms inside the agent's speech."""
        return self._buffer.underruns

    @property
    def speaking(self) -> bool:
        return bool(self._voice)

    def press(self, digit: str) -> None:
        self._deliver(json.dumps({"event": "websocket:dtmf", "digit": digit, "duration": 260}))

    def words_heard(self) -> int:
        """Of the agent's utterance that plays, or played last: the words that were heard to their end."""
        began = self.agent_began_at
        return 0 if began is None else sum(1 for heard in self.heard if heard.whole and heard.began_at >= began)

    async def until(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        """Returns at the frame at which it holds, or when the line is gone. Raises TimeoutError."""
        async with asyncio.timeout(within_s):
            while not condition() and self.closed is None:  # noqa: ASYNC110  time is virtual
                await asyncio.sleep(FRAME_S)

    async def agent_has_spoken(self, *, quiet_s: float = 0.3, within_s: float = 60) -> None:
        """Waits for the agent to begin, and then to be quiet for `quiet_s`."""
        heard = self.heard_frames
        await self.until(lambda: self.heard_frames > heard, within_s)
        await self.until(lambda: now() - self.quiet_since > quiet_s, within_s)

    # --- 20 ms ---

    async def run(self) -> None:
        """Until closed, on absolute deadlines."""
        if not self._connects:
            return
        self._deliver(json.dumps({"event": "websocket:connected", "content-type": f"audio/l16;rate={RATE_HZ}"}))
        start, tick = now(), 0
        while self.closed is None:
            tick += 1
            await asyncio.sleep(start + tick * FRAME_S - now())
            frame = self._voice.popleft() if self._voice else QUIET_FRAME
            self.sent += frame
            self._deliver(frame)
            sounds = self._play()
            words = frame is not QUIET_FRAME and any(word and word.text for word, _ in self._words.hear(frame))
            self.silence.tick(now() - self.opened_at, agent=sounds, callee=words)

    def _play(self) -> bool:
        """Play the next frame of the buffer. Whether there was one."""
        frame = self._buffer.tick()
        while self._buffer.due:
            self._confirm(json.loads(self._buffer.due.popleft()))
        if frame is None:
            return False
        if len(frame) != FRAME_BYTES:
            raise ValueError(f"a frame is {FRAME_BYTES} bytes, not {len(frame)}")
        self.heard_frames += 1
        at = now()
        if self._cut or self.agent_sounded_at is None or at - self.agent_sounded_at > UTTERANCE_GAP_S:
            self.agent_began_at, self._cut = at, False
        self.agent_sounded_at = self.quiet_since = at
        for word, samples in self._words.hear(frame):
            if word is not None:
                self._hear(word, samples, at)
        return True

    def _hear(self, word: SoundingWord, samples: int, at: float) -> None:
        last = self.heard[-1] if self.heard else None
        if last is None or last.word is not word or at - last.ended_at > FRAME_S / 2:
            last = HeardWord(word, at, at)
            self.heard.append(last)
        last.samples += samples
        last.ended_at = at + FRAME_S

    def _confirm(self, message: dict[str, object]) -> None:
        if self._confirms and message["action"] == "notify":
            self._deliver(json.dumps({"event": "websocket:notify", "payload": message["payload"]}))

    def _end(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            if self.session is not None:
                self.session.media_closed(reason)

    def _deliver(self, message: WireMessage) -> None:
        if self.closed is None and self.session is not None:
            self.session.media_received(message)
