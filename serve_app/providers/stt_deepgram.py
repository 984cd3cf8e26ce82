"""Deepgram Flux through the official SDK (`listen.v2`): speech to turns.

What the SDK leaves to its caller, and this module does: it sees a socket that hangs, it tells an end that nobody asked
for from a close, it feeds silence so that a turn can end (Flux time is audio time), and it keeps the audio path free of
the socket's back-pressure. The SDK connects and authorises; audio then goes right where it arrives to the SDK's socket
(a task between them cost more than the frame itself), and what Flux tells is read as plain JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import structlog
from deepgram import AsyncDeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from websockets.exceptions import WebSocketException
from websockets.frames import Opcode

from serve_app.audio.level import may_sound
from serve_app.errors import ProviderError
from serve_app.provider_settings import DeepgramSettings
from serve_app.providers.base import SttEvent, TranscriptionRequest, TranscriptionStream
from serve_app.providers.errors import is_retryable, status_error
from serve_app.providers.flux_audio import AudioQueue, StreamClock, binary_frame
from serve_app.providers.flux_events import TurnReader

NAME = "deepgram"

MULTILINGUAL = "flux-general-multi"

# A message costs as much as the rest of a frame's way, so frames are joined where the callee loses nothing by it: while
# a turn's voice sounds, to the 80 ms that Deepgram recommends; in the quiet between turns to twice that, for whatever
# sounds goes out at once and takes along what waits. The begin of a voice (until Flux tells of the turn) and the quiet
# that may end a turn go out frame by frame.
_VOICE_JOIN_MS = 80
_QUIET_JOIN_MS = 160
_ATTENTIVE_S = 0.5
_QUEUE_S = 10.0
# The share of that which waits in the socket itself.
_SOCKET_BACKLOG_BYTES = 1 << 16
# The SDK's own pings notice a dead socket after up to 40 s: far too late for a person on the phone.
_PING_INTERVAL_S = 2.0
_PONG_TIMEOUT_S = 3.0
# Inside a turn Flux reports about every 0.25 s of audio; this much audio (and as much time, for audio may come in a
# burst) without a word means that it hangs.
_MAX_UNREPORTED_S = 3.0
# A phone network sends all the time, so a gap means that the media path stalls. A second is more than any jitter and
# still far below Flux's idle limit of 10 s.
_TURN_GAP_S = 1.0
_IDLE_GAP_S = 4.0
_SILENCE_MS = 80
_CLOSE_TIMEOUT_S = 1.0
_EVENT_QUEUE = 1000

log = structlog.get_logger()


class DeepgramTranscriber:
    """One SDK client per process; one WebSocket per call."""

    name = NAME

    def __init__(self, settings: DeepgramSettings, api_key: str) -> None:
        self._settings = settings
        self._http = httpx.AsyncClient(timeout=settings.connect_timeout_s)
        self._client = AsyncDeepgramClient(
            api_key=api_key,
            environment=DeepgramClientEnvironment(
                base=settings.base_url,
                production=settings.websocket_url,
                agent=settings.websocket_url,
                agent_rest=settings.base_url,
            ),
            httpx_client=self._http,
            max_retries=0,
        )

    async def open(self, request: TranscriptionRequest) -> TranscriptionStream:
        """Connect. Raises ProviderError."""
        stack = contextlib.AsyncExitStack()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                connection = await stack.enter_async_context(
                    self._client.listen.v2.connect(**self._parameters(request))
                )
        except ApiError as error:
            raise _handshake_error(error, self._settings) from error
        except TimeoutError as error:
            message = f"no answer to the handshake within {self._settings.connect_timeout_s:g} s"
            raise ProviderError("stt", NAME, message, retryable=True) from error
        except (OSError, WebSocketException) as error:
            message = f"cannot connect to {self._settings.websocket_url}: {_why(error)}"
            raise ProviderError("stt", NAME, message, retryable=True) from error
        return DeepgramStream(connection, stack, request, multilingual=_model(self._settings, request) == MULTILINGUAL)

    def _parameters(self, request: TranscriptionRequest) -> dict[str, Any]:
        settings = self._settings
        parameters: dict[str, Any] = {
            "encoding": request.audio.encoding,
            "sample_rate": request.audio.sample_rate_hz,
            "eot_threshold": settings.eot_threshold,
            "eot_timeout_ms": settings.eot_timeout_ms,
            "mip_opt_out": settings.mip_opt_out,
            "tag": request.call_id,
        }
        if request.eager:
            parameters["eager_eot_threshold"] = settings.eager_eot_threshold
        if request.keyterms:
            # More than 100 terms, or one that is blank or longer than 100 characters, is refused with HTTP 400.
            terms = [term.strip() for term in request.keyterms if 0 < len(term.strip()) <= 100]
            parameters["keyterm"] = terms[:100]
        if (model := _model(settings, request)) == MULTILINGUAL:
            parameters["language_hint"] = list(_languages(request))
        parameters["model"] = model
        return parameters

    async def aclose(self) -> None:
        """Close the HTTP pool. Streams are closed by their calls."""
        await self._http.aclose()


class DeepgramStream:
    """One call's stream. Positions in events are seconds of the audio that was given to `send`."""

    def __init__(
        self,
        connection: Any,
        stack: contextlib.AsyncExitStack,
        request: TranscriptionRequest,
        *,
        multilingual: bool = False,
    ) -> None:
        self._connection = connection
        self._multilingual = multilingual
        # The SDK offers no ping, no abort, and no sending without a wait; its socket is the `websockets` client
        # connection.
        self._socket = connection._websocket
        self._stack = stack
        self._clock = StreamClock(request.audio)
        self._encoding = request.audio.encoding
        self._queue = AudioQueue(request.audio, limit_s=_QUEUE_S, message_ms=_QUIET_JOIN_MS)
        self._voice_join_bytes = request.audio.bytes_for_ms(_VOICE_JOIN_MS)
        self._quiet_join_bytes = request.audio.bytes_for_ms(_QUIET_JOIN_MS)
        self._attentive_bytes = request.audio.bytes_for_ms(_ATTENTIVE_S * 1000)
        self._quiet_bytes = 0
        self._reader = TurnReader(self._clock)
        self._silence = self._clock.silence(_SILENCE_MS)
        self._events: asyncio.Queue[SttEvent | None] = asyncio.Queue(_EVENT_QUEUE)
        self._failure: ProviderError | None = None
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._fed_at = self._loop.time()
        """When audio last came, or silence last went out."""
        self._reported_at: tuple[float, float] = (0.0, 0.0)
        self._tasks = [
            asyncio.create_task(self._guard(work), name=f"stt-{name}")
            for name, work in (("gaps", self._fill_gaps), ("read", self._read), ("watch", self._watch))
        ]
        for task in self._tasks:
            task.add_done_callback(self._task_done)

    def send(self, audio: bytes) -> None:
        """Audio of any length, sent now or soon. Raises ProviderError when the stream is dead or far behind."""
        if self._failure is not None:
            raise self._failure
        sounds = may_sound(audio, self._encoding)
        self._quiet_bytes = 0 if sounds else self._quiet_bytes + len(audio)
        join_bytes = 0
        if self._reader.in_turn:
            if sounds:
                join_bytes = self._voice_join_bytes
        elif self._quiet_bytes > self._attentive_bytes:
            join_bytes = self._quiet_join_bytes
        if not self._queue.put(audio, join_bytes=join_bytes):
            self._fail(f"the socket is {_QUEUE_S:g} s of audio behind")
            raise self._failure or self._error("closed")
        self._fed_at = self._loop.time()
        if self._queue.due:
            self._write_due()

    @property
    def reports(self) -> int:
        """See TranscriptionStream.reports: TurnInfo messages, with an event or without."""
        return self._reader.reports

    async def events(self) -> AsyncIterator[SttEvent]:
        """Turn events until `close`. The watch bounds the wait: a dead socket ends it with ProviderError."""
        while (event := await self._events.get()) is not None:
            yield event
        # Whoever iterates again gets the same end.
        self._end_events()
        if self._failure is not None and not self._closing:
            raise self._failure

    def configure(self, language: str) -> None:
        """See TranscriptionStream.configure. Sent in order with the audio; a refusal is logged."""
        if self._failure is not None:
            raise self._failure
        if not self._multilingual:
            message = f"this stream's model hears English only, and {language} was asked for"
            raise ProviderError("stt", NAME, message, retryable=False)
        if self._socket.open and not self._socket.transport.is_closing():  # else the reader finds out why
            document = {"type": "Configure", "language_hints": [language]}
            self._socket.write_frame_sync(True, Opcode.TEXT, json.dumps(document).encode())

    async def close(self) -> None:
        """Tell Deepgram, release the socket, end the tasks. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._end_events()
        for task in self._tasks:
            task.cancel()
        # Closing runs in a task of its own: `websockets.legacy` swallows the cancellation of a plain timeout, and then
        # waits for a server that hangs.
        closing = asyncio.create_task(self._close_socket(), name="stt-close")
        try:
            await asyncio.wait({closing}, timeout=_CLOSE_TIMEOUT_S)
        finally:
            if not closing.done():
                # The other side does not take part, or nobody waits for it any longer: let the connection go at once.
                self._socket.transport.abort()
        await asyncio.wait({closing}, timeout=_CLOSE_TIMEOUT_S)

    async def _close_socket(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError, WebSocketException):
            if self._failure is None:
                await self._connection.send_close_stream()
        with contextlib.suppress(OSError, WebSocketException):
            await self._stack.aclose()

    # --- the three tasks --------------------------------------------------------------------------------------------

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run one task of the stream; its failure becomes the stream's."""
        try:
            await work()
        except ProviderError as error:
            self._fail_with(error)
        except (OSError, WebSocketException) as error:
            self._fail(f"the connection was lost: {_why(error)}")

    async def _fill_gaps(self) -> None:
        """When no audio comes: inside a turn, silence in real time until the turn ends; else a keep-alive."""
        while True:
            gap_s = self._loop.time() - self._fed_at
            wait_s = (_TURN_GAP_S if self._reader.in_turn else _IDLE_GAP_S) - gap_s
            if wait_s > 0:
                # A turn may begin meanwhile.
                await asyncio.sleep(min(wait_s, _TURN_GAP_S))
                continue
            self._queue.hasten()
            self._write_due()
            await self._feed_silence()

    async def _feed_silence(self) -> None:
        while True:
            began = self._fed_at = self._loop.time()
            if self._takes():
                self._write(self._silence)
                self._clock.inserted(len(self._silence))
            if not self._reader.in_turn:
                return
            await asyncio.sleep(_SILENCE_MS / 1000)
            if self._fed_at != began:
                return

    def _write_due(self) -> None:
        # What the socket does not take now goes with the next frame. No deadline of its own: a socket that takes no
        # audio takes no ping either, and the watch ends the stream.
        while self._queue.due and self._takes():
            audio = self._queue.take()
            self._write(audio)
            self._clock.sent(len(audio))

    def _takes(self) -> bool:
        socket = self._socket
        if not socket.open or socket.transport.is_closing():
            return False  # the reader finds out why
        return bool(socket.transport.get_write_buffer_size() < _SOCKET_BACKLOG_BYTES)

    def _write(self, audio: bytes) -> None:
        if self._socket.extensions:  # the server accepted the compression that the SDK offers
            self._socket.write_frame_sync(True, Opcode.BINARY, audio)
        else:
            self._socket.transport.write(binary_frame(audio))

    async def _read(self) -> None:
        async for text in self._socket:
            message = _document(text)
            kind = message.get("type")
            if kind == "TurnInfo":
                self._reported()
                event = self._reader.read(message)
                if event is not None:
                    self._deliver(event)
            elif kind == "ConfigureFailure":
                # The model hears all the languages of the handshake as before, only without preferring the new one.
                log.warning("flux_refused_a_configuration", code=message.get("code"), why=message.get("description"))
            elif kind == "Error":
                raise self._error(f"{message.get('code') or 'error'}: {message.get('description') or 'no description'}")
        # The iteration ends without a word when the server closes with 1000 or 1001.
        raise self._error("the server ended the stream")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PING_INTERVAL_S)
            try:
                async with asyncio.timeout(_PONG_TIMEOUT_S):
                    await (await self._socket.ping())
            except TimeoutError as error:
                raise self._error(f"no answer to a ping within {_PONG_TIMEOUT_S:g} s") from error
            if not self._reader.in_turn:
                self._reported()
            elif min(self._unreported_s()) > _MAX_UNREPORTED_S:
                raise self._error(f"no report on {_MAX_UNREPORTED_S:g} s of audio inside a turn")

    def _reported(self) -> None:
        self._reported_at = (self._clock.stream_s, self._loop.time())

    def _unreported_s(self) -> tuple[float, float]:
        """Seconds of audio, and of time, since the server last said anything."""
        audio_s, time_s = self._reported_at
        return self._clock.stream_s - audio_s, self._loop.time() - time_s

    # --- ends -------------------------------------------------------------------------------------------------------

    def _deliver(self, event: SttEvent) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            raise self._error("the call does not read its turn events") from None

    def _error(self, message: str) -> ProviderError:
        return ProviderError("stt", NAME, message, retryable=True)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        """A defect in a task of the stream must end the stream, not leave it waiting."""
        if not task.cancelled() and (cause := task.exception()) is not None:
            error = ProviderError("stt", NAME, f"internal error: {_why(cause)}", retryable=False)
            error.__cause__ = cause
            self._fail_with(error)

    def _fail(self, message: str) -> None:
        self._fail_with(self._error(message))

    def _fail_with(self, error: ProviderError) -> None:
        if self._failure is None and not self._closing:
            self._failure = error
            self._end_events()
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()

    def _end_events(self) -> None:
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)


def _document(text: str | bytes) -> dict[str, Any]:
    """One message; empty for what is none of Flux's: unknown messages are passed over."""
    try:
        document = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _languages(request: TranscriptionRequest) -> tuple[str, ...]:
    return request.languages or (request.language,)


def _model(settings: DeepgramSettings, request: TranscriptionRequest) -> str:
    """The configured model hears English; for another language, or several, it takes the multilingual one."""
    return settings.model if _languages(request) == ("en",) else MULTILINGUAL


def _handshake_error(error: ApiError, settings: DeepgramSettings) -> ProviderError:
    status = error.status_code
    if status is None:
        return ProviderError("stt", NAME, "the handshake failed", retryable=True)
    # The SDK drops the server's own reason (`dg-error`), so the message names what usually is wrong.
    message = "the handshake was refused"
    remedy = (
        "" if is_retryable(status) or status in (401, 403) else f"check model {settings.model!r} and the thresholds"
    )
    return status_error("stt", NAME, status, message, remedy=remedy)


def _why(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
