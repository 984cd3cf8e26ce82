"""Cartesia through the official SDK: one WebSocket per call, one utterance per agent turn.

The SDK connects and authorises. Its context helper is not used: it drops errors that name no context,
leaves receivers of a lost socket waiting, and its reconnect returns the dead connection (measured with 4.2). Nor are
its message models, one of which per chunk of audio cost as much as the rest of the chunk's way: messages are read as
plain JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import Any, cast
from urllib.parse import urlsplit

from cartesia import AsyncCartesia
from cartesia._exceptions import CartesiaError
from websockets.exceptions import InvalidStatus, WebSocketException

from serve_app.errors import ProviderError
from serve_app.provider_settings import CartesiaSettings
from serve_app.providers.base import SynthesisConnection, SynthesisRequest
from serve_app.providers.cartesia_utterance import CartesiaUtterance, Context
from serve_app.providers.errors import status_error

NAME = "cartesia"

# The public voice that Cartesia's own SDK falls back to.
DEFAULT_VOICE = "6ccbfb76-1fc6-48f7-b71d-91ac6298247b"

_ENCODINGS = {"linear16": "pcm_s16le", "mulaw": "pcm_mulaw"}
_CLOSE_TIMEOUT_S = 1.0
_SEND_TIMEOUT_S = 3.0


class CartesiaSynthesizer:
    """One SDK client and one TLS context per process; one WebSocket per call."""

    name = NAME

    def __init__(self, settings: CartesiaSettings, api_key: str) -> None:
        self._settings = settings
        # The key is passed explicitly: this SDK reads no environment variable.
        self._client = AsyncCartesia(
            api_key=api_key,
            base_url=settings.base_url,
            # Derived from base_url it would always be wss://.
            websocket_base_url=settings.websocket_url,
            timeout=settings.connect_timeout_s,
            max_retries=0,
        )
        self._socket_options: dict[str, Any] = {"compression": None, "max_queue": 256}
        if urlsplit(settings.websocket_url).scheme == "wss":
            # Loading the system's certificates takes tens of milliseconds: once per process, not once per call.
            self._socket_options["ssl"] = ssl.create_default_context()

    def identify(self, request: SynthesisRequest) -> str:
        """See Synthesizer.identify."""
        settings, audio = self._settings, request.audio
        voice = request.voice or settings.voice or DEFAULT_VOICE
        # Without the port: that of the stand-in is another one at each start.
        server = urlsplit(settings.websocket_url).hostname
        sound = (NAME, server, settings.model, voice, request.language, audio.encoding, audio.sample_rate_hz)
        return "/".join(map(str, sound))

    async def open(self, request: SynthesisRequest) -> SynthesisConnection:
        """Connect. Raises ProviderError."""
        connection = CartesiaConnection(self._client, self._settings, self._socket_options, request)
        await connection.ensure_open()
        return connection

    async def aclose(self) -> None:
        await self._client.close()


class CartesiaConnection:
    """One call's socket. It is replaced, when it was lost or closed as idle, before the next utterance speaks."""

    def __init__(
        self,
        client: AsyncCartesia,
        settings: CartesiaSettings,
        socket_options: dict[str, Any],
        request: SynthesisRequest,
    ) -> None:
        self._client = client
        self._settings = settings
        self._socket_options = socket_options
        self.audio = request.audio
        self._fields: dict[str, Any] = {
            "model_id": settings.model,
            "voice": {"id": request.voice or settings.voice or DEFAULT_VOICE},
            "output_format": {
                "container": "raw",
                "encoding": _ENCODINGS[request.audio.encoding],
                "sample_rate": request.audio.sample_rate_hz,
            },
            "language": request.language,
            # Whole sentences are sent: the server's default would wait up to 3 s for more text.
            "max_buffer_delay_ms": 0,
            "add_timestamps": True,
        }
        self._lock = asyncio.Lock()
        self._socket: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._contexts: dict[str, Context] = {}
        self._closed = False

    @property
    def audio_timeout_s(self) -> float:
        return self._settings.audio_timeout_s

    def utterance(self) -> CartesiaUtterance:
        return CartesiaUtterance(self)

    async def ensure_open(self) -> None:
        """Connect unless connected. Raises ProviderError."""
        async with self._lock:
            if self._closed:
                raise self.error("the connection was closed")
            if self._reader is not None and not self._reader.done():
                return
            await self._release()
            # A new manager each time: a manager that was entered once returns its dead connection.
            manager = self._client.tts.websocket_connect(websocket_connection_options=cast(Any, self._socket_options))
            try:
                async with asyncio.timeout(self._settings.connect_timeout_s):
                    self._socket = await manager.enter()
            except InvalidStatus as error:
                raise self._handshake_error(error) from error
            except TimeoutError as error:
                message = f"no answer to the handshake within {self._settings.connect_timeout_s:g} s"
                raise self.error(message) from error
            except (OSError, WebSocketException, CartesiaError) as error:
                message = f"cannot connect to {self._settings.websocket_url}: {type(error).__name__}: {error}"
                raise self.error(message) from error
            self._reader = asyncio.create_task(self._read(self._socket), name="tts-read")

    async def speak(self, context: Context, text: str, *, more: bool) -> None:
        """Send text of a context; `more=False` ends its input. Raises ProviderError."""
        self._contexts[context.id] = context
        await self._send({"context_id": context.id, "transcript": text, "continue": more, **self._fields})

    async def cancel(self, context: Context) -> None:
        """Forget a context: what still arrives of it is dropped. Never raises."""
        if self._contexts.pop(context.id, None) is not None and not self._closed:
            with contextlib.suppress(ProviderError):
                await self._send({"context_id": context.id, "cancel": True})

    def forget(self, context: Context) -> None:
        self._contexts.pop(context.id, None)

    async def close(self) -> None:
        """Close the socket. Idempotent, bounded in time."""
        self._closed = True
        self._fail_contexts(self.error("the connection was closed"))
        await self._release()

    async def _send(self, document: dict[str, Any]) -> None:
        socket = self._socket
        if socket is None or self._reader is None or self._reader.done():
            raise self.error("the socket was lost")
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                # Not through the SDK's `send`: its fields have their names on the wire already, and finding that out
                # again for each sentence cost twice as much as sending it.
                await socket._connection.send(json.dumps(document))
        except TimeoutError as error:
            raise self.error(f"the socket took no text for {_SEND_TIMEOUT_S:g} s") from error
        except (OSError, WebSocketException) as error:
            raise self.error(f"the socket was lost: {type(error).__name__}: {error}") from error

    async def _read(self, socket: Any) -> None:
        """Hand messages to their contexts until the socket ends; then every waiting context fails at once."""
        failure = self.error("the socket was closed")
        try:
            while True:
                self._route(json.loads(await socket.recv_bytes()))
        except (OSError, WebSocketException, ValueError) as error:
            failure = self.error(f"the socket was lost: {type(error).__name__}: {error}")
        finally:
            self._fail_contexts(failure)

    def _route(self, message: object) -> None:
        if not isinstance(message, dict):
            return
        context_id = message.get("context_id")
        if context_id is None and message.get("type") == "error":
            # Such an error may belong to any of them: none may wait for audio that does not come.
            for context in list(self._contexts.values()):
                context.receive(message)
        elif context_id in self._contexts:
            self._contexts[context_id].receive(message)

    def _fail_contexts(self, failure: ProviderError) -> None:
        for context in self._contexts.values():
            context.fail(failure)
        self._contexts.clear()

    async def _release(self) -> None:
        socket, self._socket = self._socket, None
        reader, self._reader = self._reader, None
        closed = False
        try:
            if reader is not None:
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)
            if socket is not None:
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await socket.close()
            closed = True
        except (OSError, WebSocketException):
            pass
        finally:
            # It does not take part in closing, or nobody waits for it any longer: let the connection go at once.
            if socket is not None and not closed:
                socket._connection.transport.abort()

    def _handshake_error(self, error: InvalidStatus) -> ProviderError:
        status = error.response.status_code
        return status_error("tts", NAME, status, "the handshake was refused")

    def error(self, message: str, *, retryable: bool = True, status: int | None = None) -> ProviderError:
        return ProviderError("tts", NAME, message, retryable=retryable, status=status)
