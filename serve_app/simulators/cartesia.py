"""Cartesia stand-in: `/tts/websocket`, `/tts/bytes`, `/tts/sse`, `/voices`. The speech is real (espeak-ng)."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, abort, hang
from serve_app.simulators.latency import Delays
from serve_app.simulators.prepared_speech import CHUNK_MS, OutputFormat, PreparedSpeech, SpeechCache
from serve_app.simulators.speech import Speech

VOICES = (
    ("6ccbfb76-1fc6-48f7-b71d-91ac6298247b", "Simulated Ava", "en"),
    ("5c5ad5e7-1020-476b-8b91-fdcbe9cc313c", "Simulated Daniela", "es"),
    ("a249eaff-1e96-4d2c-b23b-12efa4f66f41", "Simulated Claire", "fr"),
)


LANGUAGES = frozenset(
    (
        "en", "de", "es", "fr", "ja", "pt", "zh", "hi", "ko", "it", "nl", "pl", "ru", "sv", "tr", "tl", "bg", "ro",
        "ar", "cs", "el", "fi", "hr", "ms", "sk", "da", "ta", "uk", "hu", "no", "vi", "bn", "th", "he", "ka", "id",
        "te", "gu", "kn", "ml", "mr", "pa",
    )
)  # fmt: skip
"""Of sonic-3. What is not English, Spanish or French is spoken here with the English voice."""


class _Voice(BaseModel):
    # Under the current API version an embedding is refused; unknown extra keys are left alone.
    model_config = ConfigDict(extra="allow")

    id: str = Field(min_length=1)


class SpeechBody(BaseModel):
    """The fields that the websocket and both HTTP routes have in common."""

    model_config = ConfigDict(extra="allow")

    model_id: str
    transcript: str
    voice: str | _Voice
    output_format: OutputFormat
    language: str = "en"
    add_timestamps: bool = False

    @property
    def constant_fields(self) -> tuple[Any, ...]:
        """What must not change within a context."""
        return self.model_id, str(self.voice), self.output_format.model_dump_json(), self.language


class ContextBody(SpeechBody):
    context_id: str = Field(min_length=1)
    continue_: bool = Field(False, alias="continue")
    flush: bool = False
    max_buffer_delay_ms: int = Field(3000, ge=0, le=5000)


class ApiError(Exception):
    """An answer of the API: HTTP status, error code, text."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message

    def document(self) -> dict[str, Any]:
        title = self.code.replace("_", " ").capitalize()
        return {
            "status_code": self.status,
            "error_code": self.code,
            "title": title,
            "message": self.message,
            "request_id": str(uuid.uuid4()),
        }


@dataclass(slots=True)
class CartesiaState:
    """What all sockets of one application share."""

    config: SimulatorConfig
    delays: Delays
    speeches: SpeechCache = field(default_factory=SpeechCache)
    active_contexts: int = 0
    sockets: int = 0
    sockets_opened: int = 0
    cancelled_contexts: int = 0

    def check(self, body: SpeechBody) -> None:
        """Raises ApiError for a model or a language that is not there."""
        if body.model_id in self.config.tts_sunset_models:
            raise ApiError(400, "model_sunsetted", f"model {body.model_id} is no longer available")
        if body.model_id not in self.config.tts_models:
            raise ApiError(404, "model_not_found", f"model {body.model_id} does not exist")
        if body.language not in LANGUAGES:
            raise ApiError(400, "language_not_supported", f"language {body.language!r} is not supported by this model")

    def acquire(self) -> None:
        """One active context. Raises ApiError 429 beyond the account's limit."""
        limit = self.config.tts_concurrency
        if limit is not None and self.active_contexts >= limit:
            raise ApiError(429, "concurrency_limited", "too many concurrent requests for this account")
        self.active_contexts += 1

    def release(self) -> None:
        self.active_contexts -= 1


CARTESIA: web.AppKey[CartesiaState] = web.AppKey("cartesia", CartesiaState)


async def gate(request: web.Request) -> None:
    """Faults and authorisation of one request. Raises ApiError, or cuts the connection."""
    fault = request.app[FAULTS].take_request("cartesia")
    if fault is not None and fault.kind == "hang":
        await hang(request)
    if fault is not None and fault.kind in ("hang", "disconnect"):
        abort(request)
        raise ApiError(500, "disconnected", "the connection was cut")
    if fault is not None and fault.kind == "server_error":
        raise ApiError(500, "internal_server_error", "the stand-in was told to fail")
    if fault is not None and fault.kind == "rate_limited":
        raise ApiError(429, "concurrency_limited", "too many concurrent requests for this account")
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme != "Bearer":
        # Clients written before the Bearer scheme (Pipecat 1.14 is one) send a header of its own, or a parameter.
        key = request.headers.get("X-API-Key") or request.query.get("api_key", "")
    if fault is not None or key in ("", *request.app[CARTESIA].config.rejected_keys):
        raise ApiError(401, "unauthorized", "invalid API key")


def refuse(error: ApiError) -> web.Response:
    return web.json_response(error.document(), status=error.status)


async def prepare_speech(app: web.Application) -> None:
    """On start: speak the configured texts, whole and by sentence, in the format that telephony asks for."""
    state = app[CARTESIA]
    config = state.config
    texts: set[str] = set()
    for text in (*config.tts_prepared, *config.llm_script.values(), config.llm_default_reply or ""):
        texts.update((text, *re.split(r"(?<=[.!?])\s+", text)))
    for text in sorted(filter(str.strip, texts)):
        await state.speeches.get(text, OutputFormat(encoding="pcm_s16le", sample_rate=16000))


async def spoken(state: CartesiaState, body: SpeechBody, *, odd: bool = False) -> PreparedSpeech:
    return await state.speeches.get(body.transcript, body.output_format, language=body.language, odd=odd)


async def paced(state: CartesiaState, prepared: PreparedSpeech, first_s: float) -> AsyncIterator[int]:
    """Indexes of the chunks when they are due: the first after `first_s`, the others faster than speech by the
    configured factor, against the clock."""
    due = time.monotonic() + first_s
    for index in range(len(prepared.chunks)):
        wait_s = due - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        yield index
        due += CHUNK_MS / 1000 / state.config.tts_realtime_factor


def timestamps(speech: Speech, offset_s: float) -> dict[str, Any]:
    """`word_timestamps` of one input; seconds from the context's first sample."""
    return {
        "words": [word.text for word in speech.words],
        "start": [round(word.start_s + offset_s, 3) for word in speech.words],
        "end": [round(word.end_s + offset_s, 3) for word in speech.words],
    }


async def tts_bytes(request: web.Request) -> web.StreamResponse:
    """`POST /tts/bytes`: the audio alone, streamed."""
    state = request.app[CARTESIA]
    try:
        await gate(request)
        body = SpeechBody.model_validate_json(await request.read())
        state.check(body)
        state.acquire()
    except ApiError as error:
        return refuse(error)
    except ValidationError as error:
        return refuse(ApiError(400, "invalid_request", str(error.errors()[0]["msg"])))
    try:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        await response.prepare(request)
        prepared = await spoken(state, body)
        async for index in paced(state, prepared, state.delays.draw_s("tts_first_audio")):
            await response.write(prepared.chunks[index])
        await response.write_eof()
        return response
    finally:
        state.release()


async def tts_sse(request: web.Request) -> web.StreamResponse:
    """`POST /tts/sse`: the websocket's events without contexts."""
    state = request.app[CARTESIA]
    try:
        await gate(request)
        body = SpeechBody.model_validate_json(await request.read())
        state.check(body)
        state.acquire()
    except ApiError as error:
        return refuse(error)
    except ValidationError as error:
        return refuse(ApiError(400, "invalid_request", str(error.errors()[0]["msg"])))
    context_id = str(uuid.uuid4())
    try:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        prepared = await spoken(state, body)

        async def event(document: dict[str, Any]) -> None:
            named = {**document, "context_id": context_id}
            await response.write(f"event: {document['type']}\ndata: {json.dumps(named)}\n\n".encode())

        if body.add_timestamps:
            words = {"word_timestamps": timestamps(prepared.speech, 0.0)}
            await event({"type": "timestamps", "done": False, "status_code": 206, **words})
        async for index in paced(state, prepared, state.delays.draw_s("tts_first_audio")):
            data = base64.b64encode(prepared.chunks[index]).decode()
            await event({"type": "chunk", "data": data, "done": False, "status_code": 206, "step_time": 10.0})
        await event({"type": "done", "done": True, "status_code": 200})
        await response.write_eof()
        return response
    finally:
        state.release()


def _voice_document(voice: tuple[str, str, str]) -> dict[str, Any]:
    identity, name, language = voice
    return {
        "id": identity,
        "name": name,
        "language": language,
        "description": "A voice of the stand-in.",
        "tagline": "",
        "access": "public",
        "visibility": "all",
        "is_owner": False,
        "locales": [],
        "created_at": "2026-01-01T00:00:00Z",
    }


async def voices(request: web.Request) -> web.Response:
    """`GET /voices`: one page."""
    try:
        await gate(request)
    except ApiError as error:
        return refuse(error)
    after = request.query.get("starting_after")
    data = [] if after else [_voice_document(voice) for voice in VOICES]
    return web.json_response({"data": data, "has_more": False})


async def voice(request: web.Request) -> web.Response:
    """`GET /voices/{id}`."""
    try:
        await gate(request)
        found = next((v for v in VOICES if v[0] == request.match_info["id"]), None)
        if found is None:
            raise ApiError(404, "voice_not_found", "no such voice")
    except ApiError as error:
        return refuse(error)
    return web.json_response(_voice_document(found))


async def get_state(request: web.Request) -> web.Response:
    """`GET /sim/tts`: counters, for tests that nothing was left behind."""
    state = request.app[CARTESIA]
    return web.json_response(
        {
            "active_contexts": state.active_contexts,
            "sockets": state.sockets,
            "sockets_opened": state.sockets_opened,
            "cancelled_contexts": state.cancelled_contexts,
        }
    )
