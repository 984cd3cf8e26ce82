"""The agent's voice, as the turn machine orders it: replies, drafts of replies, and fixed lines.

Whatever goes wrong in a generation becomes `ReplyFailed`; cancelling one closes the model's stream and the
synthesizer's context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from serve_app.clock import Clock
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.call_lines import CallLines
from serve_app.conversation.drafts import Draft
from serve_app.conversation.lines import LineCache, PreparedLine, speakable_line
from serve_app.conversation.phrases import Language
from serve_app.conversation.playout import Playout
from serve_app.conversation.reply import Reply
from serve_app.conversation.speculation import Speculation
from serve_app.conversation.speech import Speech
from serve_app.conversation.transcript import Transcript
from serve_app.conversation.turn_types import FailOver, ReplyFailed, ReplyFinished, SpeakLine, TurnEvent
from serve_app.conversation.voice import Voice
from serve_app.errors import ProviderError, Stage
from serve_app.metrics import FAILOVERS, LINES
from serve_app.providers.base import ChatRequest, Providers, SynthesisRequest

log = structlog.get_logger()


class Speaker:
    """One call's voice."""

    def __init__(
        self,
        *,
        agent: AgentDefinition,
        tenant_id: str,
        providers: Providers,
        request: SynthesisRequest,
        playout: Playout,
        transcript: Transcript,
        clock: Clock,
        lines: LineCache,
        speculation: Speculation,
        emit: Callable[[TurnEvent], None],
        kick: Callable[[], None],
    ) -> None:
        self._agent = agent
        self._models = providers.llm
        self._synthesizers = providers.tts
        self._playout = playout
        self._transcript = transcript
        self._clock = clock
        self._speculation = speculation
        self._emit = emit
        self._kick = kick
        self._log = log.bind(call_id=request.call_id)
        self._voice = Voice(request, agent.language)
        self._live: dict[int, Reply | Speech | asyncio.Task[None]] = {}
        """What a generation does now; the task waits for a line to be loaded."""
        self._drafts: dict[int, Draft] = {}
        self._first_line_done = asyncio.Event()
        self._switched = asyncio.Event()
        self._lines = CallLines(agent, tenant_id, self._voice, providers.tts.clients[0], lines, clock)

    # --- replies ---

    def start_reply(
        self, group: asyncio.TaskGroup, generation: int, request: ChatRequest, *, draft: int | None = None
    ) -> None:
        """Answer, with the draft if it is good for that; else the model is asked now."""
        self._playout.begin(generation)
        reply = Reply(
            generation,
            request,
            self._speech(generation),
            models=self._models,
            speculation=self._speculation,
            probe=self._transcript.probe(generation),
            clock=self._clock,
            on_piece=lambda text: self._transcript.agent_text(generation, text),
            emit=self._emit,
            on_failed=lambda error: self._fail(generation, error),
        )
        self._live[generation] = reply
        reply.start(group, self._take_draft(draft, request))

    def start_draft(self, group: asyncio.TaskGroup, draft: int, request: ChatRequest) -> None:
        """Ask the model, and keep what it says. Nothing where drafts do not pay at the moment."""
        now = self._clock.monotonic()
        model = self._models.best(now)
        if model is not None and self._speculation.allowed(now):
            self._drafts[draft] = Draft(model, request, self._clock)
            self._drafts[draft].start(group)

    def drop_draft(self, draft: int) -> None:
        if (dropped := self._drafts.pop(draft, None)) is not None:
            dropped.drop()
            self._count_unused(dropped)

    def _take_draft(self, number: int | None, request: ChatRequest) -> Draft | None:
        draft = self._drafts.pop(number, None) if number is not None else None
        if draft is None:
            return None
        if draft.error is None and draft.answers(request):
            self._speculation.committed(self._clock.monotonic())
            return draft
        draft.drop()
        self._count_unused(draft)
        return None

    def _count_unused(self, draft: Draft) -> None:
        now = self._clock.monotonic()
        if draft.error is None:
            self._speculation.dropped(draft.tokens, now)
        else:
            self._models.failed(draft.model, now)
            self._speculation.failed(now)

    # --- fixed lines ---

    def start_line(self, group: asyncio.TaskGroup, line: SpeakLine) -> None:
        """Speak a fixed text: from prepared audio, else live where the line allows it."""
        prepared = self._lines.find(line.text)
        if line.before is not None:
            if prepared is not None and self._playout.begin(line.generation, before=line.before):
                self._play_prepared(line, prepared)
            return
        self._playout.begin(line.generation)
        if prepared is not None:
            self._play_prepared(line, prepared)
        elif self._lines.is_coming(line.text):
            waiting = group.create_task(self._when_loaded(group, line), name=f"line-{line.generation}")
            self._live[line.generation] = waiting
        else:
            self._without_prepared(group, line)

    async def _when_loaded(self, group: asyncio.TaskGroup, line: SpeakLine) -> None:
        prepared = await self._lines.wait_for(line.text)
        if prepared is not None:
            self._play_prepared(line, prepared)
        else:
            self._without_prepared(group, line)

    def _without_prepared(self, group: asyncio.TaskGroup, line: SpeakLine) -> None:
        generation = line.generation
        if line.prepared_only:
            name = self._synthesizers.clients[0].name
            self._fail(generation, ProviderError("tts", name, "no line was prepared", retryable=False))
            return
        LINES.labels("live").inc()
        speech = self._live[generation] = self._speech(generation)
        self._transcript.agent_text(generation, line.text)
        speech.add(line.text)
        speech.complete()
        speech.start(group)

    def _play_prepared(self, line: SpeakLine, prepared: PreparedLine) -> None:
        LINES.labels("prepared").inc()
        generation, now = line.generation, self._clock.monotonic()
        probe = self._transcript.probe(generation)
        probe.first_sentence_at = probe.first_audio_at = now
        self._transcript.agent_text(generation, line.text)
        self._playout.push_text(generation, speakable_line(line.text, self._voice.language))
        self._playout.push_words(generation, prepared.words)
        self._playout.push_audio(generation, prepared.audio)
        self._finish(generation)

    # --- control ---

    def fail_over(self, group: asyncio.TaskGroup, command: FailOver) -> None:
        """The next provider of the stage takes the generation over; nothing where there is none."""
        live = self._live.get(command.generation)
        taker: Reply | Speech | None = None
        if command.stage == "llm" and isinstance(live, Reply):
            taker = live
        elif command.stage == "tts" and isinstance(live, Reply | Speech):
            taker = live.speech if isinstance(live, Reply) else live
        if taker is not None and taker.fail_over(group):
            FAILOVERS.labels(command.stage).inc()
            self._log.warning("the next provider takes over", generation=command.generation, cause=command.cause)

    def awaited(self, generation: int) -> Stage:
        """The stage that owes the next audio of a generation."""
        live = self._live.get(generation)
        owed = isinstance(live, Reply) and not live.complete and not self._playout.unspoken_text(generation).strip()
        return "llm" if owed else "tts"

    def cancel(self, generation: int) -> None:
        """Stop the generation. What it has in the playout stays there, and is its end."""
        if (live := self._live.pop(generation, None)) is not None:
            live.cancel()
        self._first_line_done.set()
        self._playout.finish(generation, failed=True)
        self._kick()

    def switch_language(self, language: Language, voice: str | None) -> None:
        """What begins from now on is spoken in this language."""
        self._voice.switch(language, voice)
        self._lines.take()
        self._switched.set()

    def _speech(self, generation: int) -> Speech:
        return Speech(
            generation,
            voice=self._voice,
            synthesizers=self._synthesizers,
            playout=self._playout,
            probe=self._transcript.probe(generation),
            clock=self._clock,
            kick=self._kick,
            on_end=lambda error: self._on_speech_end(generation, error),
        )

    def _on_speech_end(self, generation: int, error: ProviderError | None) -> None:
        live = self._live.get(generation)
        if error is None and isinstance(live, Reply):
            error = live.error
        if error is None:
            self._finish(generation)
        else:
            self._fail(generation, error)

    def _finish(self, generation: int) -> None:
        self._live.pop(generation, None)
        self._first_line_done.set()
        self._playout.finish(generation)
        self._emit(ReplyFinished(generation))
        self._kick()

    def _fail(self, generation: int, error: ProviderError) -> None:
        live = self._live.get(generation)
        speech = live.speech if isinstance(live, Reply) else live
        other_model = error.stage == "llm" and isinstance(live, Reply) and live.has_alternative
        other_voice = error.stage == "tts" and isinstance(speech, Speech) and speech.has_alternative
        self._log.warning("a reply failed", generation=generation, stage=error.stage, error=str(error))
        self._first_line_done.set()
        self._emit(ReplyFailed(generation, error.stage, error.retryable, str(error), other_model or other_voice))
        self._kick()

    # --- what is had ready ---

    async def prepare(self) -> None:
        """Have connections and lines ready: the ones at once, the others when the opening is through."""
        await asyncio.gather(self._warm_model(), self._warm_voice())
        await self._first_line_done.wait()
        await self._lines.make_missing()
        while self._agent.languages:
            self._switched.clear()
            await self._switched.wait()
            await self._warm_voice()
            await self._lines.make_missing()

    async def _warm_model(self) -> None:
        if (model := self._models.best(self._clock.monotonic())) is not None:
            await model.warm()

    async def _warm_voice(self) -> None:
        synthesizer = self._synthesizers.best(self._clock.monotonic())
        if synthesizer is not None:
            try:
                await self._voice.connect(synthesizer, self._voice.request)
            except ProviderError as error:
                self._synthesizers.failed(synthesizer, self._clock.monotonic())
                self._log.warning("the voice has no connection yet", error=str(error))

    async def close(self) -> None:
        for draft in list(self._drafts):
            self.drop_draft(draft)
        await self._voice.close()
