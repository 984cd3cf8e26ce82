"""One generation's way from text to the playout, through at most one synthesizer that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog

from serve_app.clock import Clock
from serve_app.conversation.latency import LatencyProbe
from serve_app.conversation.playout import Playout
from serve_app.conversation.sentences import SentenceSplitter
from serve_app.conversation.speakable import Speakable, speakable
from serve_app.conversation.voice import Voice, cancel_utterance
from serve_app.errors import ProviderError
from serve_app.providers.base import AudioChunk, Synthesizer, Utterance, Word
from serve_app.providers.ranking import Ranking

SLOWEST_CHARS_PER_S = 8.0
"""Half as fast as people speak: how long the audio of a text may be where word timings do not tell."""
LONGEST_TAIL_S = 2.0
"""So much audio may follow on the last word; whatever makes more of it does not know that the text is over."""
STALLED_S = 1.0
"""So long without a sound for the text that it has: its connection may hang."""
_COVERED_S = 0.1
"""Audio may end so much before its last word does, by the word timings."""

log = structlog.get_logger()


class Speech:
    """Text in by `add` and `complete`; audio and word timings go to the playout, where `generation` has begun."""

    def __init__(
        self,
        generation: int,
        *,
        voice: Voice,
        synthesizers: Ranking[Synthesizer],
        playout: Playout,
        probe: LatencyProbe,
        clock: Clock,
        kick: Callable[[], None],
        on_end: Callable[[ProviderError | None], None],
    ) -> None:
        """`on_end`: all audio of the complete text is in the playout, or the synthesizer failed (`fail_over` may
        follow). Not called after `cancel`.
        """
        self._generation = generation
        self._voice = voice
        # A change of the language is for what begins after it.
        self._request, self.language = voice.request, voice.language
        self._synthesizers = synthesizers
        self._playout = playout
        self._probe = probe
        self._clock = clock
        self._kick = kick
        self._on_end = on_end
        self._pieces: list[Speakable] = []
        self._complete = False
        self._more = asyncio.Event()
        self._asked: list[Synthesizer] = []
        self._task: asyncio.Task[None] | None = None
        self._offset_s = 0.0
        """Audio of the generation that came before the present utterance."""
        self._asked_or_heard_at: float | None = None
        """When the present synthesizer got its first text, or made its latest sound."""

    # --- text ---

    def add(self, text: str) -> None:
        """A piece as it was written, with its own white space."""
        if self._probe.first_sentence_at is None:
            self._probe.first_sentence_at = self._clock.monotonic()
        piece = speakable(text, self.language)
        self._playout.push_text(self._generation, piece)
        self._pieces.append(piece)
        self._more.set()

    def complete(self) -> None:
        """No more text follows."""
        self._complete = True
        self._more.set()

    # --- the synthesizer ---

    @property
    def has_alternative(self) -> bool:
        return self._following() is not None

    def _following(self) -> Synthesizer | None:
        # Once: a third one would come too late for the callee.
        return self._synthesizers.best(self._clock.monotonic(), without=self._asked) if len(self._asked) < 2 else None

    def start(self, group: asyncio.TaskGroup) -> None:
        if (synthesizer := self._following()) is not None:
            self._asked.append(synthesizer)
            self._task = group.create_task(self._speak(synthesizer), name=f"speech-{self._generation}")

    def fail_over(self, group: asyncio.TaskGroup) -> bool:
        """The next synthesizer gets the text whose audio has not come, and all that follows. False: there is none."""
        if self._task is None or not self.has_alternative:
            return False
        self._task.cancel()
        failed = self._asked[-1]
        self._synthesizers.failed(failed, self._clock.monotonic())
        group.create_task(self._voice.discard(failed), name="discard")
        splitter = SentenceSplitter(self.language)
        rest = self._playout.take_unspoken(self._generation)
        self._pieces = [speakable(text, self.language) for text in (*splitter.feed(rest), *splitter.flush())]
        self._offset_s = self._playout.audio_s(self._generation)
        self._asked_or_heard_at = None
        self.start(group)
        return True

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            if self._stalls():
                # Interrupted before its deadline: the next reply must not wait at the same socket anew.
                self._voice.leave(self._asked[-1])

    def _stalls(self) -> bool:
        since = self._asked_or_heard_at
        if since is None or self._clock.monotonic() - since < STALLED_S:
            return False
        return bool(self._playout.unspoken_text(self._generation).strip())

    async def _speak(self, synthesizer: Synthesizer) -> None:
        try:
            connection = await self._voice.connect(synthesizer, self._request)
            if await self._piece(0) is not None:
                utterance = connection.utterance()
                try:
                    with _one_provider_error():
                        await self._carry(utterance, synthesizer)
                finally:
                    await cancel_utterance(utterance)
        except ProviderError as error:
            self._synthesizers.failed(synthesizer, self._clock.monotonic())
            if not self._all_said():
                self._on_end(error)
                return
            # It only did not come to its end: for the callee nothing is missing.
            log.warning("speech that was whole did not end", generation=self._generation, error=str(error))
            self._probe.causes.append("tts_failed")
        self._task = None
        self._on_end(None)

    def _all_said(self) -> bool:
        """By the word timings: without them nobody knows."""
        end_s = self._playout.speech_end_s(self._generation)
        return self._complete and end_s is not None and self._playout.audio_s(self._generation) >= end_s - _COVERED_S

    def _goes_on(self) -> bool:
        """There is more audio than the text can have."""
        end_s = self._playout.speech_end_s(self._generation)
        if end_s is None:
            end_s = self._offset_s + sum(len(piece.spoken) for piece in self._pieces) / SLOWEST_CHARS_PER_S
        return self._playout.audio_s(self._generation) > end_s + LONGEST_TAIL_S

    async def _carry(self, utterance: Utterance, synthesizer: Synthesizer) -> None:
        async with asyncio.TaskGroup() as group:
            position, hearing = 0, False
            while (piece := await self._piece(position)) is not None:
                position += 1
                if not piece.spoken.strip():
                    continue  # an emoji
                await utterance.push(piece.spoken)
                if not hearing:
                    # The synthesizer's deadlines begin with the first text, not with the model's thinking.
                    hearing = True
                    self._asked_or_heard_at = self._clock.monotonic()
                    group.create_task(self._hear(utterance, synthesizer))
            await utterance.finish()

    async def _piece(self, position: int) -> Speakable | None:
        """The piece at `position`, once it is there; None: the text ends before it. The model bounds the wait."""
        while position >= len(self._pieces):
            if self._complete:
                return None
            self._more.clear()
            await self._more.wait()
        return self._pieces[position]

    async def _hear(self, utterance: Utterance, synthesizer: Synthesizer) -> None:
        sounded = False
        async for event in utterance.events():
            if isinstance(event, AudioChunk):
                sounded = True
                self._asked_or_heard_at = self._clock.monotonic()
                if self._probe.first_audio_at is None:
                    self._probe.first_audio_at = self._clock.monotonic()
                if self._playout.push_audio(self._generation, event.audio):
                    self._kick()
                if self._goes_on():
                    raise ProviderError("tts", synthesizer.name, "the speech does not end", retryable=True)
            else:
                self._playout.push_words(self._generation, _later(event.words, self._offset_s))
        if not sounded:
            raise ProviderError("tts", synthesizer.name, "no audio for the text", retryable=True)


def _later(words: tuple[Word, ...], seconds: float) -> tuple[Word, ...]:
    if not seconds:
        return words
    return tuple(
        replace(
            word,
            start_s=None if word.start_s is None else word.start_s + seconds,
            end_s=None if word.end_s is None else word.end_s + seconds,
        )
        for word in words
    )


@contextmanager
def _one_provider_error() -> Iterator[None]:
    """Around a task group: its ProviderError comes out as itself. Anything else in the group wins, as the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        failures, others = group.split(ProviderError)
        if failures is None or others is not None:
            raise
        error: BaseException = failures
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
