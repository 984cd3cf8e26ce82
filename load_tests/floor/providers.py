"""The three providers by their wire protocols: Deepgram Flux, Groq's chat completions, Cartesia's WebSocket."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import picows

SAMPLE_RATE_HZ = 16_000
_BINARY, _TEXT, _CLOSE = picows.WSMsgType.BINARY, picows.WSMsgType.TEXT, picows.WSMsgType.CLOSE


@dataclass(frozen=True, slots=True)
class Options:
    """`url`: where all providers are, http://host:port. Thresholds and models: the same as of the systems beside it."""

    url: str
    system_prompt: str
    greeting: str
    key: str = "simulated"
    stt_model: str = "flux-general-en"
    stt_end_of_turn_threshold: float = 0.7
    stt_end_of_turn_timeout_ms: int = 3000
    llm_model: str = "openai/gpt-oss-20b"
    tts_model: str = "sonic-3"
    tts_voice: str = "6ccbfb76-1fc6-48f7-b71d-91ac6298247b"

    @property
    def sockets_url(self) -> str:
        return self.url.replace("http", "ws", 1)


class ProviderSocket(picows.WSListener):
    """A provider's socket of one call. `lost` is called once when it closes, unless `close` came before."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self._transport: picows.WSTransport | None = None
        self._closed = False

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport
        if self._closed:  # the phone hung up meanwhile
            transport.disconnect()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if frame.msg_type is _TEXT:
            self.told(json.loads(frame.get_payload_as_bytes()))
        elif frame.msg_type is _CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        if not self._closed:
            self._closed = True
            self._lost(f"{type(self).__name__}: the provider closed its socket")

    def told(self, message: dict[str, Any]) -> None:
        """One message of the provider."""
        raise NotImplementedError

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.disconnect()

    def _send(self, kind: picows.WSMsgType, payload: str | bytes) -> None:
        if self._transport is not None and not self._closed:
            self._transport.send(kind, payload)


class Transcriber(ProviderSocket):
    """Flux: audio in; `started` when the callee begins to speak, `ended` with the text of a turn."""

    def __init__(
        self, *, started: Callable[[], None], ended: Callable[[str], None], lost: Callable[[str], None]
    ) -> None:
        super().__init__(lost)
        self._started, self._ended = started, ended

    def hear(self, pcm: bytes) -> None:
        """A message per frame: what waits for company arrives late."""
        self._send(_BINARY, pcm)

    def told(self, message: dict[str, Any]) -> None:
        if message["type"] == "TurnInfo":
            if message["event"] == "StartOfTurn":
                self._started()
            elif message["event"] == "EndOfTurn":
                self._ended(message["transcript"])
        elif message["type"] == "Error":
            self.close()
            self._lost(f"Flux: {message.get('description')}")


class Voice(ProviderSocket):
    """Cartesia: text in; `audio` in pieces, then `done`. One utterance at a time, nothing after `cancel`."""

    def __init__(
        self,
        options: Options,
        *,
        audio: Callable[[bytes], None],
        done: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        super().__init__(lost)
        self._audio, self._done = audio, done
        self._context: str | None = None
        self._fields = {
            "model_id": options.tts_model,
            "voice": {"id": options.tts_voice},
            "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": SAMPLE_RATE_HZ},
            "language": "en",
            "max_buffer_delay_ms": 0,
        }

    def speak(self, text: str) -> None:
        self.cancel()
        self._context = str(uuid.uuid4())
        self._send(_TEXT, json.dumps({"context_id": self._context, "transcript": text, **self._fields}))

    def cancel(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._send(_TEXT, json.dumps({"context_id": context, "cancel": True}))

    def told(self, message: dict[str, Any]) -> None:
        if message["type"] == "error":
            self.close()
            self._lost(f"Cartesia: {message.get('message')}")
        elif message.get("context_id") != self._context:
            return  # generated before the cancel reached the provider
        elif message["type"] == "chunk":
            self._audio(base64.b64decode(message["data"]))
        elif message["type"] == "done":
            self._context = None
            self._done()


AnySocket = TypeVar("AnySocket", bound=ProviderSocket)


class Providers:
    """What the calls of a process share. Use it inside a running loop."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Authorization": f"Bearer {options.key}"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def transcribe(self, transcriber: Transcriber) -> Transcriber:
        """Raises OSError or picows.WSError."""
        options = self.options
        query = {
            "model": options.stt_model,
            "encoding": "linear16",
            "sample_rate": SAMPLE_RATE_HZ,
            "eot_threshold": options.stt_end_of_turn_threshold,
            "eot_timeout_ms": options.stt_end_of_turn_timeout_ms,
        }
        return await self._connect(transcriber, f"/v2/listen?{urlencode(query)}", f"Token {options.key}")

    async def speak(self, voice: Voice) -> Voice:
        """Raises OSError or picows.WSError."""
        return await self._connect(voice, "/tts/websocket", f"Bearer {self.options.key}")

    async def ask(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The model's whole answer. Raises aiohttp.ClientError."""
        body = {
            "model": self.options.llm_model,
            "messages": list(messages),
            "stream": True,
            "reasoning_effort": "low",
            "include_reasoning": False,
        }
        said = []
        async with self._http.post(
            f"{self.options.url}/openai/v1/chat/completions", json=body, raise_for_status=True
        ) as answer:
            async for line in answer.content:
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        said.append(choice["delta"].get("content") or "")
        return "".join(said)

    async def aclose(self) -> None:
        await self._http.close()

    async def _connect(self, listener: AnySocket, path: str, authorization: str) -> AnySocket:
        url = f"{self.options.sockets_url}{path}"
        await picows.ws_connect(lambda: listener, url, extra_headers={"Authorization": authorization})
        return listener
