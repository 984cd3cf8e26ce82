"""The callee's side of the talk: every frame to the transcriber, unmodified and in order; its events to the session."""

from __future__ import annotations

import asyncio
import bisect
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from serve_app.conversation.deafness import QUIET_S, DeafnessWatch
from serve_app.conversation.phrases import Language
from serve_app.errors import ProviderError
from serve_app.providers.base import (
    PartialTranscript,
    SpeechStarted,
    SttEvent,
    Transcriber,
    TranscriptionRequest,
    TranscriptionStream,
    TurnEnded,
)
from serve_app.providers.ranking import Ranking

OPEN_TIMEOUT_S = 4.5
CLOSE_TIMEOUT_S = 2.0
FORGET_FAILURE_S = 30.0
"""A failure that is so long ago is no reason to give the call up at the next one."""
KEEP_S = 30.0
"""How much audio waits for a transcriber that is not open; beyond it the oldest is dropped (and counted)."""
_ANCHOR_S = 0.1
_ANCHORS = 1200

log = structlog.get_logger()


class _ToldNothingError(ProviderError):
    """The callee seems to have spoken, and nothing was told of it: a suspicion, for noise may last as long."""


class ArrivalTimes:
    """When the audio at a stream position arrived: positions are linear in samples, so a few anchors are enough."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._step = int(bytes_per_s * _ANCHOR_S)
        self._positions: list[int] = []
        self._times: list[float] = []

    def add(self, position: int, now: float) -> None:
        """`position`: bytes received up to now."""
        if self._positions and position - self._positions[-1] < self._step:
            return
        if len(self._positions) >= _ANCHORS:
            del self._positions[: _ANCHORS // 2], self._times[: _ANCHORS // 2]
        self._positions.append(position)
        self._times.append(now)

    def at(self, position: float) -> float | None:
        """Monotonic time; None before the first audio."""
        if not self._positions:
            return None
        index = min(bisect.bisect_left(self._positions, position), len(self._positions) - 1)
        return self._times[index] - (self._positions[index] - position) / self._bytes_per_s


class Hearing:
    """One call's transcription, through at most one failure in a row: then the next transcriber, if there is one."""

    def __init__(
        self,
        transcribers: Ranking[Transcriber],
        request: TranscriptionRequest,
        *,
        on_event: Callable[[SttEvent], None],
        on_turn_lost: Callable[[ProviderError, float], None],
        on_failed: Callable[[ProviderError], None],
    ) -> None:
        """`on_turn_lost`: what the callee was saying will never be told, though the transcriber is opened again.

        With the seconds for which the callee has been quiet, as far as that is known.
        """
        self._transcribers = transcribers
        self._transcriber = transcribers.clients[0]
        self._request = request
        self._on_event = on_event
        self._on_turn_lost = on_turn_lost
        self._on_failed = on_failed
        self._log = log.bind(call_id=request.call_id)
        self._bytes_per_s = request.audio.sample_rate_hz * request.audio.bytes_per_sample
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._arrivals = ArrivalTimes(self._bytes_per_s)
        self._received = 0
        self._stream_start = 0
        """Position of the present stream's first byte in everything received."""
        self._stream_sent = 0
        self._inserted_s = 0.0
        """Silence that the client put into the stream by itself, as far as its positions tell."""
        self._watch = DeafnessWatch(request.audio)
        self._reports = 0
        """The sum of the present stream's, as last seen."""
        self._alive = False
        """The present stream has told anything at all."""
        self._stream: TranscriptionStream | None = None
        self._broken: asyncio.Future[None] | None = None
        """Ends with what went wrong with the present stream's audio."""
        self._in_turn = False
        self._quiet_s = 0.0
        self._failures = 0
        """In a row; one that is long ago counts no more."""
        self._failed_at = float("-inf")
        self._suspected = False
        """The latest failure was a suspicion only."""
        self._closed = False
        self.dropped_bytes = 0

    def receive(self, audio: bytes, now: float) -> None:
        """A frame from the callee. On the media path."""
        self._received += len(audio)
        self._arrivals.add(self._received, now)
        if self._closed:
            return
        if self._stream is None:
            self._keep(audio)
        else:
            self._feed(self._stream, audio)

    def arrival_time(self, audio_s: float) -> float | None:
        """When the audio at a position of the present stream arrived (monotonic)."""
        return self._arrivals.at(self._stream_start + max(0.0, audio_s - self._inserted_s) * self._bytes_per_s)

    def switch_language(self, language: Language) -> None:
        """Expect this language from now on, on the present stream and on those that replace it."""
        self._request = replace(self._request, language=language)
        if self._stream is not None:
            try:
                self._stream.configure(language)
            except ProviderError as error:
                self._break(error)

    async def run(self) -> None:
        """Transcribe until cancelled. After a second failure without a turn in between, `on_failed`, and return.

        That a transcriber tells nothing is such a failure only where the one before it was useless as well.
        """
        try:
            while True:
                try:
                    await self._listen()
                except ProviderError as error:
                    now = asyncio.get_running_loop().time()
                    self._count_failure(error, now)
                    self._transcribers.failed(self._transcriber, now)
                    self._log.warning("transcriber failed", error=str(error), retryable=error.retryable)
                    last = not error.retryable and len(self._transcribers.clients) == 1
                    if last or self._failures > 1:
                        self._on_failed(error)
                        return
                    if self._in_turn:
                        self._in_turn = False
                        self._on_turn_lost(error, self._quiet_s)
        finally:
            self._closed = True
            self._waiting.clear()

    def _count_failure(self, error: ProviderError, now: float) -> None:
        suspected = isinstance(error, _ToldNothingError)
        if now - self._failed_at > FORGET_FAILURE_S or (self._suspected and self._alive):
            self._failures = 0
        # A stream that did tell something may have been right to ignore a noise: it is replaced, and no more than that.
        self._failures = max(1, self._failures) if suspected and self._alive else self._failures + 1
        self._failed_at, self._suspected = now, suspected

    async def _listen(self) -> None:
        self._reports, self._alive = 0, False
        stream = await self._open()
        self._quiet_s = 0.0
        self._stream_start = self._received - self._waiting_bytes
        self._stream_sent, self._inserted_s = 0, 0.0
        following = asyncio.create_task(self._follow(stream.events()), name="transcriber")
        self._broken = asyncio.get_running_loop().create_future()
        try:
            self._stream = stream
            if self._waiting:
                waiting = b"".join(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
                self._feed(stream, waiting)
            done, _ = await asyncio.wait({following, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            # What the transcriber still told comes before what went wrong with its audio.
            await (following if following in done else self._broken)
        finally:
            self._stream = None
            self._broken.cancel()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            with suppress(TimeoutError, ProviderError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await stream.close()

    async def _open(self) -> TranscriptionStream:
        best = self._transcribers.best(asyncio.get_running_loop().time())
        self._transcriber = best or self._transcriber
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                return await self._transcriber.open(self._request)
        except TimeoutError as error:
            raise ProviderError("stt", self._transcriber.name, "no connection in time", retryable=True) from error

    async def _follow(self, events: AsyncIterator[SttEvent]) -> None:
        async for event in events:
            self._inserted_s = max(self._inserted_s, event.audio_s - self._stream_sent / self._bytes_per_s)
            self._alive = True
            self._watch.heard_event()
            if isinstance(event, SpeechStarted | PartialTranscript):
                self._in_turn = True
            elif isinstance(event, TurnEnded):
                self._in_turn = False
                self._failures = 0
            self._on_event(event)
        raise ProviderError("stt", self._transcriber.name, "the stream ended by itself", retryable=True)

    def _feed(self, stream: TranscriptionStream, audio: bytes) -> None:
        try:
            stream.send(audio)
        except ProviderError as error:
            # The next stream gets it.
            self._keep(audio)
            self._break(error)
            return
        self._stream_sent += len(audio)
        if (reports := stream.reports) != self._reports:
            self._reports, self._alive = reports, True
            self._watch.heard_event()
        if self._watch.feed(audio):
            self._in_turn, self._quiet_s = True, QUIET_S
            self._break(_ToldNothingError("stt", self._transcriber.name, "told nothing of speech", retryable=True))

    def _keep(self, audio: bytes) -> None:
        self._waiting.append(audio)
        self._waiting_bytes += len(audio)
        while self._waiting_bytes > KEEP_S * self._bytes_per_s:
            self.dropped_bytes += len(self._waiting[0])
            self._waiting_bytes -= len(self._waiting.popleft())

    def _break(self, error: ProviderError) -> None:
        self._stream = None
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)
