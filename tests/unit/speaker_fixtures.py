"""A speaker with a playout that is played as a network would: scripted providers on virtual time, or real clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.history import History
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.ledger import Spoken
from serve_app.conversation.lines import LineCache
from serve_app.conversation.playout import Playout
from serve_app.conversation.speaker import Speaker
from serve_app.conversation.speculation import Speculation
from serve_app.conversation.transcript import Transcript
from serve_app.conversation.turn_types import ReplyFailed, ReplyFinished, TurnEvent
from serve_app.latency_budgets import LatencyBudgets
from serve_app.providers.base import AudioFormat, ChatRequest, LanguageModel, Message, Providers, SynthesisRequest
from serve_app.providers.ranking import Ranking
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.scripted_llm import ScriptedModel
from serve_app.scenarios.scripted_stt import ScriptedTranscriber
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer
from serve_app.scenarios.virtual_call import lease_of
from serve_app.scenarios.virtual_time import LoopClock, run_virtual
from serve_app.scenarios.vocabulary import RATE_HZ, Vocabulary
from tests.unit.session_fixtures import make_agent

AUDIO = AudioFormat("linear16", RATE_HZ)
AVOID_FAILED_S = 30.0
Event = TypeVar("Event", bound=TurnEvent)


def asked(*texts: str) -> ChatRequest:
    """A talk whose last word is the callee's."""
    said = [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts)]
    return ChatRequest("c1", (Message("system", "You test."), *said), max_tokens=400)


class _Over(Exception):  # noqa: N818
    pass


@dataclass
class Booth:
    """Set what shall be different, then `run`."""

    agent: AgentDefinition = field(default_factory=make_agent)
    words: Vocabulary = field(default_factory=Vocabulary)
    llm: LanguageModel = field(default_factory=ScriptedModel)
    second_llm: ScriptedModel | None = None
    tts: ScriptedSynthesizer = field(init=False)
    second_tts: ScriptedSynthesizer = field(init=False)
    two_voices: bool = False
    providers: Providers | None = None
    """Instead of the scripted ones."""
    lines: LineCache = field(default_factory=LineCache)
    speculation: Speculation = field(default_factory=Speculation)
    prepares: bool = False
    """Runs `Speaker.prepare`, as a session does."""
    events: list[TurnEvent] = field(default_factory=list)
    spoken: list[Spoken] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """Words that were played, each once."""
    first_frame_at: float | None = None

    def __post_init__(self) -> None:
        self.tts = ScriptedSynthesizer(self.words)
        self.second_tts = ScriptedSynthesizer(self.words, name="second")

    @property
    def model(self) -> ScriptedModel:
        assert isinstance(self.llm, ScriptedModel)
        return self.llm

    def run(self, act: Callable[[Booth], Awaitable[None]]) -> None:
        run_virtual(self.act_out(act))

    async def act_out(self, act: Callable[[Booth], Awaitable[None]]) -> None:
        clock = LoopClock()
        self.playout = Playout(AUDIO, lead_ms=400)
        writer = JournalWriter(Memory(), lease_of(self.agent, "c1"))
        self.transcript = Transcript(
            writer,
            History(self.agent),
            zero=clock.monotonic(),
            budgets=LatencyBudgets(),
            on_reply=lambda record, probe: None,
        )
        models = [self.llm, *([self.second_llm] if self.second_llm else [])]
        voices = [self.tts, *([self.second_tts] if self.two_voices else [])]
        self.speaker = Speaker(
            agent=self.agent,
            tenant_id="default",
            providers=self.providers
            or Providers(
                ScriptedTranscriber(self.words),
                Ranking(*models, avoid_failed_s=AVOID_FAILED_S),
                Ranking(*voices, avoid_failed_s=AVOID_FAILED_S),
            ),
            request=SynthesisRequest("c1", AUDIO, self.agent.voice, self.agent.language),
            playout=self.playout,
            transcript=self.transcript,
            clock=clock,
            lines=self.lines,
            speculation=self.speculation,
            emit=self.events.append,
            kick=lambda: None,
        )
        try:
            async with asyncio.TaskGroup() as group:
                self.group = group
                group.create_task(self._play())
                if self.prepares:
                    group.create_task(self.speaker.prepare())
                await act(self)
                raise _Over
        except* _Over:
            pass
        finally:
            await self.speaker.close()

    async def _play(self) -> None:
        while True:
            now = asyncio.get_running_loop().time()
            for item in self.playout.tick(now):
                if isinstance(item, bytes):
                    self.first_frame_at = self.first_frame_at or now
                    self._hear(item)
            self.spoken += [notice.spoken for notice in self.playout.take_notices() if notice.spoken is not None]
            await asyncio.sleep(0.02)

    def _hear(self, frame: bytes) -> None:
        for word, _ in self.words.hear(frame):
            if word is not None and (not self.heard or self._last != word.number):
                self.heard.append(word.text)
                self._last = word.number

    # --- what an act does ---

    async def until(self, condition: Callable[[], bool], within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  time is virtual
                await asyncio.sleep(0.01)

    async def ended(self, generation: int) -> None:
        """All of it is in the playout, or it failed."""
        await self.until(
            lambda: any(isinstance(e, ReplyFinished | ReplyFailed) and e.generation == generation for e in self.events)
        )

    async def drained(self, generation: int) -> Spoken:
        """It was played to its end."""
        await self.until(lambda: any(s.generation == generation for s in self.spoken))
        return next(s for s in self.spoken if s.generation == generation)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def nothing_is_open(self) -> bool:
        models = [self.model, *([self.second_llm] if self.second_llm else [])]
        voices = (self.tts, self.second_tts)
        return not any(m.streams_open for m in models) and not any(v.utterances_open for v in voices)
