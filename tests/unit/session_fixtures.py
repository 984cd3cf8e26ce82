"""A whole call in one process on virtual time: a phone network, scripted providers, stores that only remember."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.session import CallSession
from serve_app.errors import ProviderError, UnavailableError
from serve_app.providers.base import (
    AudioChunk,
    ChatEvent,
    ChatFinished,
    ChatRequest,
    PartialTranscript,
    Providers,
    SpeechStarted,
    SttEvent,
    SynthesisEvent,
    SynthesisRequest,
    TextDelta,
    TranscriptionRequest,
    TurnEnded,
    Word,
    WordTimings,
)
from serve_app.settings import CallSettings
from serve_app.telephony.base import WireMessage
from serve_app.telephony.vonage.wire import VonageLeg
from tests.unit.virtual_time import LoopClock, run_virtual

RATE = 8000
FRAME = 320
FRAME_S = 0.02
SILENCE = bytes(FRAME)
END_OF_TURN_S = 0.5
CHAR_S = 0.06

LlmPlan = Literal["ok", "401", "429", "hang", "cut", "empty", "stall"]
TtsPlan = Literal["ok", "fail", "hang", "stall"]
SttPlan = Literal["ok", "401", "refuse", "drop", "end", "deaf", "lost"]


def now() -> float:
    return asyncio.get_running_loop().time()


# --- speech to text --------------------------------------------------------------------------------------------------


class ScriptedStream:
    """Non-zero frames are speech; half a second of zeros ends the turn, with the next text of the script."""

    def __init__(self, owner: ScriptedTranscriber, plan: SttPlan) -> None:
        self._owner = owner
        self._plan = plan
        self._events: asyncio.Queue[SttEvent | ProviderError | None] = asyncio.Queue()
        self.audio = bytearray()
        self._started_at: float | None = None
        self._speech_end = 0.0
        self._partials = 0
        self.closed = False

    def send(self, audio: bytes) -> None:
        for start in range(0, len(audio), FRAME):
            self.audio += audio[start : start + FRAME]
            self._frame(any(audio[start : start + FRAME]))

    def _frame(self, speech: bool) -> None:
        position = len(self.audio) / 2 / RATE
        if self._plan == "deaf":
            return
        if speech:
            self._speech_end = position
            if self._started_at is None:
                self._started_at = position - FRAME_S
                if self._plan == "drop":
                    error = ProviderError("stt", "scripted", "connection lost", retryable=True)
                    self._events.put_nowait(error)
                    return
                if self._plan == "end":
                    self._events.put_nowait(None)
                    return
                self._events.put_nowait(SpeechStarted(0, position))
        elif self._started_at is not None and position - self._speech_end >= END_OF_TURN_S - 1e-6:
            if self._plan == "lost":
                error = ProviderError("stt", "scripted", "silent in the middle of a turn", retryable=True)
                self._events.put_nowait(error)
                return
            text, confidence = self._owner.texts.popleft() if self._owner.texts else ("", 1.0)
            words = tuple(Word(w, self._started_at, self._speech_end, confidence) for w in text.split())
            self._owner.turn_ends.append(now())
            self._events.put_nowait(TurnEnded(0, text, position, words, self._speech_end))
            self._started_at = None
        if self._started_at is not None and int(position / 0.25) > self._partials:
            self._partials = int(position / 0.25)
            self._events.put_nowait(PartialTranscript(0, "...", position))

    async def events(self) -> AsyncIterator[SttEvent]:
        while True:
            event = await self._events.get()
            if event is None:
                return
            if isinstance(event, ProviderError):
                raise event
            yield event

    async def close(self) -> None:
        self.closed = True


@dataclass
class ScriptedTranscriber:
    plans: list[SttPlan] = field(default_factory=list)
    open_after_s: float = 0.1
    name: str = "scripted"
    texts: deque[tuple[str, float]] = field(default_factory=deque)
    streams: list[ScriptedStream] = field(default_factory=list)
    opened: int = 0
    turn_ends: list[float] = field(default_factory=list)

    async def open(self, request: TranscriptionRequest) -> ScriptedStream:
        plan = self.plans[self.opened] if self.opened < len(self.plans) else "ok"
        self.opened += 1
        await asyncio.sleep(self.open_after_s)
        if plan in ("401", "refuse"):
            raise ProviderError("stt", self.name, plan, retryable=plan == "refuse")
        self.streams.append(ScriptedStream(self, plan))
        return self.streams[-1]

    async def aclose(self) -> None: ...


# --- language model --------------------------------------------------------------------------------------------------


@dataclass
class ScriptedModel:
    plans: list[LlmPlan] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    name: str = "scripted"
    requests: list[ChatRequest] = field(default_factory=list)
    streams_open: int = 0

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        number = len(self.requests)
        self.requests.append(request)
        plan = self.plans[number] if number < len(self.plans) else "ok"
        text = self.answers[number] if number < len(self.answers) else f"This is answer number {number + 1}."
        self.streams_open += 1
        try:
            await asyncio.sleep(0.2)
            if plan in ("401", "429"):
                raise ProviderError("llm", self.name, plan, retryable=plan == "429", status=int(plan))
            if plan == "hang":
                await asyncio.sleep(3600)
            if plan == "empty":
                yield ChatFinished("length")
                return
            words = text.split(" ")
            for i, word in enumerate(words):
                if i == len(words) // 2 and plan == "cut":
                    raise ProviderError("llm", self.name, "cut", retryable=True)
                if i == len(words) // 2 and plan == "stall":
                    await asyncio.sleep(3600)
                yield TextDelta(word if i == 0 else f" {word}")
                await asyncio.sleep(0.01)
            yield ChatFinished("stop")
        finally:
            self.streams_open -= 1

    async def warm(self) -> None: ...

    async def aclose(self) -> None: ...


# --- text to speech --------------------------------------------------------------------------------------------------


class ScriptedUtterance:
    """60 ms of sound per character, faster than real time; words timed in proportion."""

    def __init__(self, owner: ScriptedSynthesizer, plan: TtsPlan) -> None:
        self._owner = owner
        self._plan = plan
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._spoken_s = 0.0
        self.cancelled = False

    async def push(self, text: str) -> None:
        self._texts.put_nowait(text)

    async def finish(self) -> None:
        self._texts.put_nowait(None)

    async def events(self) -> AsyncIterator[SynthesisEvent]:
        while (text := await self._texts.get()) is not None:
            await asyncio.sleep(0.1)
            if self._plan == "fail":
                raise ProviderError("tts", self._owner.name, "connection lost", retryable=True)
            if self._plan == "hang":
                await asyncio.sleep(3600)
            words = []
            for word in text.split():
                duration_s = (len(word) + 1) * CHAR_S
                words.append(Word(word, self._spoken_s, self._spoken_s + duration_s))
                self._spoken_s += duration_s
            yield WordTimings(tuple(words))
            audio = b"\x01" * (round(sum((w.end_s or 0) - (w.start_s or 0) for w in words) * RATE) * 2)
            for start in range(0, len(audio), 3001 * 2):
                if start and self._plan == "stall":
                    await asyncio.sleep(3600)
                yield AudioChunk(audio[start : start + 3001 * 2])
                await asyncio.sleep(0.02)

    async def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            self._owner.utterances_open -= 1


@dataclass
class ScriptedSynthesizer:
    plans: list[TtsPlan] = field(default_factory=list)
    down: bool = False
    name: str = "scripted"
    utterances: int = 0
    utterances_open: int = 0
    connections_open: int = 0

    async def open(self, request: SynthesisRequest) -> ScriptedSynthesizer:
        await asyncio.sleep(0.05)
        self.connections_open += 1
        return self

    def utterance(self) -> ScriptedUtterance:
        plan: TtsPlan = self.plans[self.utterances] if self.utterances < len(self.plans) else "ok"
        self.utterances += 1
        self.utterances_open += 1
        return ScriptedUtterance(self, "fail" if self.down else plan)

    async def close(self) -> None:
        self.connections_open -= 1

    async def aclose(self) -> None: ...


# --- the phone network -----------------------------------------------------------------------------------------------


class Network:
    """Plays one frame per 20 ms from its buffer, sends one, confirms marks. `MediaPort` and `CallControl` at once."""

    def __init__(self, *, confirms: bool = True, connects: bool = True) -> None:
        self.session: CallSession | None = None
        self._connects = connects
        self._confirms = confirms
        self._buffer: deque[WireMessage] = deque()
        self._voice: deque[bytes] = deque()
        self.sent = bytearray()
        self.heard_frames = 0
        self.clears = 0
        self.largest_send = 0
        self.hang_ups: list[str] = []
        self.closed: str | None = None
        self.agent_playing = False
        self.quiet_since = now()
        self.longest_silence_s = 0.0
        self.turn_ends: list[float] = []
        self._last_sound = now()

    def send(self, *messages: WireMessage) -> None:
        if self.closed is not None:
            return
        self.largest_send = max(self.largest_send, sum(isinstance(m, bytes) for m in messages))
        for message in messages:
            if message == '{"action":"clear"}':
                self.clears += 1
                self._buffer.clear()
                self._deliver('{"event":"websocket:cleared"}')
            else:
                self._buffer.append(message)

    def close(self, reason: str) -> None:
        self._end(reason)

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        self.hang_ups.append(carrier_call_id)
        await asyncio.sleep(0.05)
        self._end("the caller's socket closed with code 1000")

    def drop(self, code: int = 1006) -> None:
        self._end(f"the caller's socket closed with code {code}")

    def _end(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
            assert self.session is not None
            self.session.media_closed(reason)

    def _deliver(self, message: WireMessage) -> None:
        if self.closed is None and self.session is not None:
            self.session.media_received(message)

    async def run(self) -> None:
        """Until closed, on absolute deadlines."""
        if not self._connects:
            return
        self._deliver(json.dumps({"event": "websocket:connected", "content-type": f"audio/l16;rate={RATE}"}))
        start, tick = now(), 0
        while self.closed is None:
            tick += 1
            await asyncio.sleep(start + tick * FRAME_S - now())
            frame = self._voice.popleft() if self._voice else SILENCE
            self.sent += frame
            self._deliver(frame)
            self._play()
            self._watch(speaking=frame is not SILENCE)

    def _play(self) -> None:
        self.agent_playing = False
        while self._buffer and isinstance(self._buffer[0], str):
            self._confirm(json.loads(self._buffer.popleft()))
        if self._buffer:
            assert len(self._buffer.popleft()) == FRAME
            self.heard_frames += 1
            self.agent_playing = True

    def _confirm(self, message: dict[str, object]) -> None:
        if self._confirms and message["action"] == "notify":
            self._deliver(json.dumps({"event": "websocket:notify", "payload": message["payload"]}))

    def _watch(self, *, speaking: bool) -> None:
        if self.agent_playing:
            self.quiet_since = now()
        last = max([self._last_sound, *self.turn_ends[-1:]])
        if self.agent_playing or speaking:
            self._last_sound = now()
        else:
            self.longest_silence_s = max(self.longest_silence_s, now() - last)

    def speak(self, ms: float) -> None:
        """The callee speaks from the next frame on. No sample of it is zero, and frames differ."""
        for _ in range(round(ms / 20)):
            self._voice.append(
                f"{len(self._voice) % 100:02d}{len(self.sent) // FRAME % 100:02d}".encode() * (FRAME // 4)
            )

    async def until(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while not condition() and self.closed is None:  # noqa: ASYNC110  time is virtual
                await asyncio.sleep(FRAME_S)

    async def agent_has_spoken(self, *, quiet_s: float = 0.3, within_s: float = 60) -> None:
        """Waits for the agent to begin, and then to be quiet for `quiet_s`."""
        heard = self.heard_frames
        await self.until(lambda: self.heard_frames > heard, within_s)
        await self.until(lambda: now() - self.quiet_since > quiet_s, within_s)


# --- stores ----------------------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """`CallJournal` and `PartStore` that remember, or fail."""

    broken: bool = False
    parts: dict[str, bytes] = field(default_factory=dict)
    records: dict[int, TurnRecord] = field(default_factory=dict)
    events: list[dict[str, object]] = field(default_factory=list)
    results: list[CallResult] = field(default_factory=list)
    starts: int = 0

    def _check(self) -> None:
        if self.broken:
            raise UnavailableError("the store is down")

    async def put(self, key: str, data: bytes) -> None:
        self._check()
        assert key not in self.parts
        self.parts[key] = data

    async def started(self, lease: CallLease, at: datetime) -> None:
        self._check()
        self.starts += 1

    async def turn(self, lease: CallLease, record: TurnRecord) -> None:
        self._check()
        self.records[record.index] = record

    async def live(self, lease: CallLease, event: dict[str, object]) -> None:
        self._check()
        json.dumps(event)
        self.events.append(event)

    async def finished(self, lease: CallLease, result: CallResult) -> None:
        self._check()
        self.results.append(result)

    @property
    def turns(self) -> list[TurnRecord]:
        return [self.records[index] for index in sorted(self.records)]

    def texts(self) -> list[tuple[str, str]]:
        return [(turn.role, turn.heard_text) for turn in self.turns]


# --- the call --------------------------------------------------------------------------------------------------------

OPENING = "Hello, this is the test agent. How are you?"


def make_agent(**changes: object) -> AgentDefinition:
    document: dict[str, object] = {
        "name": "test-agent",
        "business": "Test",
        "opening": OPENING,
        "system_prompt": "You test.",
        **changes,
    }
    return AgentDefinition.model_validate(document)


@dataclass
class Scene:
    """One call with its surroundings."""

    agent: AgentDefinition = field(default_factory=make_agent)
    stt: ScriptedTranscriber = field(default_factory=ScriptedTranscriber)
    llm: ScriptedModel = field(default_factory=ScriptedModel)
    tts: ScriptedSynthesizer = field(default_factory=ScriptedSynthesizer)
    memory: Memory = field(default_factory=Memory)
    confirms: bool = True
    connects: bool = True
    settings: CallSettings = field(default_factory=CallSettings)
    leftover_tasks: int = -1
    net: Network = field(init=False)
    session: CallSession = field(init=False)
    running: asyncio.Task[CallResult] = field(init=False)

    def play(self, callee: Callable[[Scene], Awaitable[None]] | None = None, *, limit_s: float = 300) -> CallResult:
        """Run the call to its end; `callee` acts meanwhile."""
        return run_virtual(self._play(callee, limit_s))

    async def _play(self, callee: Callable[[Scene], Awaitable[None]] | None, limit_s: float) -> CallResult:
        self.net = Network(confirms=self.confirms, connects=self.connects)
        self.net.turn_ends = self.stt.turn_ends
        lease = CallLease(
            call_id="c1",
            tenant_id="default",
            direction="outbound",
            carrier_call_id="carrier-1",
            from_number="+15550000001",
            to_number="+15550000002",
            agent=self.agent,
            agent_version=1,
            slot_id="s1",
        )
        providers = Providers(self.stt, self.llm, self.tts)
        self.session = CallSession(
            lease=lease,
            leg=VonageLeg(RATE),
            port=self.net,
            providers=providers,
            journal=self.memory,
            parts=self.memory,
            control=self.net,
            settings=self.settings,
            clock=LoopClock(),
        )
        self.net.session = self.session
        self.running = asyncio.create_task(self.session.run())
        media = asyncio.create_task(self.net.run())
        acting = asyncio.create_task(callee(self)) if callee is not None else None
        try:
            async with asyncio.timeout(limit_s):
                return await self.running
        finally:
            if acting is not None:
                acting.cancel()
                await asyncio.gather(acting, return_exceptions=True)
                if not acting.cancelled() and (error := acting.exception()) is not None:
                    raise error
            await media
            self.leftover_tasks = len(asyncio.all_tasks()) - 1

    async def say(self, text: str, *, ms: float = 1000, confidence: float = 0.95) -> None:
        """The callee says `text` now, for `ms`."""
        self.stt.texts.append((text, confidence))
        self.net.speak(ms)
        await asyncio.sleep(ms / 1000)

    async def converse(self, *texts: str) -> None:
        """The callee waits for the agent each time, then speaks; and listens to the last answer."""
        for text in texts:
            await self.net.agent_has_spoken()
            await self.say(text)
        await self.net.agent_has_spoken()

    def nothing_is_left(self) -> bool:
        return (
            self.leftover_tasks == 0
            and self.llm.streams_open == 0
            and self.tts.utterances_open == 0
            and self.tts.connections_open == 0
            and all(stream.closed for stream in self.stt.streams)
        )
