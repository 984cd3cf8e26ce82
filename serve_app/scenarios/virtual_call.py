"""A whole call in one process on virtual time: a session with scripted providers, a phone network and a memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.lines import LineCache
from serve_app.conversation.session import CallSession
from serve_app.providers.base import Providers
from serve_app.providers.ranking import Ranking
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.record import CallRecord
from serve_app.scenarios.scripted_llm import ScriptedModel
from serve_app.scenarios.scripted_stt import ScriptedTranscriber
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer
from serve_app.scenarios.virtual_network import VirtualNetwork, now
from serve_app.scenarios.virtual_time import LoopClock, run_virtual
from serve_app.scenarios.vocabulary import RATE_HZ, Vocabulary
from serve_app.settings import CallSettings
from serve_app.telephony.vonage.wire import VonageLeg

Call = TypeVar("Call", bound="VirtualCall")


def lease_of(agent: AgentDefinition, call_id: str) -> CallLease:
    """What a session is given, for a call that nobody placed."""
    return CallLease(
        call_id=call_id,
        tenant_id="default",
        direction="outbound",
        carrier_call_id="carrier-1",
        from_number="+15550000001",
        to_number="+15550000002",
        agent=agent,
        agent_version=1,
        slot_id="s1",
    )


@dataclass
class VirtualCall:
    """One call with its surroundings. Set what shall be different, then `play` once."""

    agent: AgentDefinition
    words: Vocabulary = field(default_factory=Vocabulary)
    stt: ScriptedTranscriber = field(init=False)
    llm: ScriptedModel = field(default_factory=ScriptedModel)
    tts: ScriptedSynthesizer = field(init=False)
    second_llm: ScriptedModel | None = None
    second_tts: ScriptedSynthesizer | None = None
    memory: Memory = field(default_factory=Memory)
    lines: LineCache = field(default_factory=LineCache)
    confirms: bool = True
    connects: bool = True
    settings: CallSettings = field(default_factory=CallSettings)
    lead_zone: str | None = None
    """Of a lead for whose sake the call is."""
    leftover_tasks: int = -1
    net: VirtualNetwork = field(init=False)
    record: CallRecord = field(init=False)
    session: CallSession = field(init=False)
    running: asyncio.Task[CallResult] = field(init=False)

    def __post_init__(self) -> None:
        self.stt = ScriptedTranscriber(self.words)
        self.tts = ScriptedSynthesizer(self.words)

    def play(
        self: Call, callee: Callable[[Call], Awaitable[None]] | None = None, *, limit_s: float = 300
    ) -> CallResult:
        """Run the call to its end; `callee` acts meanwhile."""
        return run_virtual(self.run(callee, limit_s))

    async def run(self: Call, callee: Callable[[Call], Awaitable[None]] | None, limit_s: float) -> CallResult:
        """`play`, on the virtual loop that runs. Raises what the callee raised, and TimeoutError after `limit_s`."""
        self._set_up()
        self.running = asyncio.create_task(self.session.run())
        media = asyncio.create_task(self.net.run())
        acting = asyncio.ensure_future(callee(self)) if callee is not None else None
        try:
            async with asyncio.timeout(limit_s):
                return await self.running
        finally:
            if media.done():
                # A fault of the network's own explains whatever else went wrong.
                media.result()
            if acting is not None:
                acting.cancel()
                await asyncio.gather(acting, return_exceptions=True)
                if not acting.cancelled() and (error := acting.exception()) is not None:
                    raise error
            await media
            self.leftover_tasks = len(asyncio.all_tasks()) - 1

    def _set_up(self) -> None:
        self.net = VirtualNetwork(self.words, confirms=self.confirms, connects=self.connects)
        opened_at = self.net.opened_at
        self.record = CallRecord(self.agent.language, lambda: now() - opened_at, self.net.silence)
        self.session = CallSession(
            lease=lease_of(self.agent, "c1").model_copy(update={"lead_zone": self.lead_zone}),
            leg=VonageLeg(RATE_HZ),
            port=self.net,
            providers=Providers(
                self.stt,
                Ranking(self.llm, *([self.second_llm] if self.second_llm else [])),
                Ranking(self.tts, *([self.second_tts] if self.second_tts else [])),
            ),
            journal=self.memory,
            parts=self.memory,
            control=self.net,
            settings=self.settings,
            clock=LoopClock(),
            lines=self.lines,
            observe=self.record.turn,
        )
        self.net.session = self.session

    # --- what a callee in a test does ---

    async def say(self, text: str, *, ms: float = 1000, confidence: float = 0.95) -> None:
        """The callee says `text` now, for `ms`."""
        self.net.say(text, word_s=ms / 1000 / max(1, len(text.split())), confidence=confidence)
        await asyncio.sleep(ms / 1000)

    async def converse(self, *texts: str) -> None:
        """The callee waits for the agent each time, then speaks; and listens to the last answer."""
        for text in texts:
            await self.net.agent_has_spoken()
            await self.say(text)
        await self.net.agent_has_spoken()

    def nothing_is_left(self) -> bool:
        """No task, stream, utterance or connection outlived the call."""
        models = [self.llm, *([self.second_llm] if self.second_llm else [])]
        synthesizers = [self.tts, *([self.second_tts] if self.second_tts else [])]
        return (
            self.leftover_tasks == 0
            and not any(model.streams_open for model in models)
            and not any(tts.utterances_open or tts.connections_open for tts in synthesizers)
            and all(stream.closed for stream in self.stt.streams)
        )
