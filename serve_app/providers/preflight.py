"""Whether the configured providers would serve a call now: keys, models, voice, addresses. Costs next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import cartesia
import groq
import httpx
import httpx2
import openai

from serve_app.errors import ProviderError
from serve_app.provider_settings import ProviderSettings
from serve_app.providers.base import AudioFormat, SynthesisRequest, TranscriptionRequest
from serve_app.providers.registry import key_of
from serve_app.providers.stt_deepgram import DeepgramTranscriber
from serve_app.providers.tts_cartesia import DEFAULT_VOICE, CartesiaSynthesizer
from serve_app.settings import Settings

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ProviderCheck:
    """One finding. `remedy` is empty when all is well."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    provider: str = ""
    """The provider's name alone; `name` also tells which entry of its stage it is."""


async def check_providers(settings: Settings) -> list[ProviderCheck]:
    """Check every provider that a call may use, at the same time. Never raises for what a provider does."""
    checks: dict[str, Callable[[ProviderSettings], Awaitable[ProviderCheck]]] = {
        "deepgram": _check_deepgram,
        "groq": _check_groq,
        "openai": _check_openai,
        "cartesia": _check_cartesia,
    }
    entries = settings.entries()
    found = await asyncio.gather(*(_bounded(entry.name, checks[entry.name], entry.providers) for entry in entries))
    return [replace(check, name=entry.label, provider=entry.name) for entry, check in zip(entries, found, strict=True)]


async def _bounded(
    name: str, check: Callable[[ProviderSettings], Awaitable[ProviderCheck]], providers: ProviderSettings
) -> ProviderCheck:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await check(providers)
    except ProviderError as error:
        remedy = "try again later" if error.retryable else f"see providers.{name} in the settings"
        if error.status in (401, 403):
            remedy = f"set {name.upper()}_API_KEY to a valid key"
        return ProviderCheck(name, ok=False, detail=str(error), remedy=remedy)
    except (groq.APIStatusError, openai.APIStatusError, cartesia.APIStatusError) as error:
        return _status_check(name, error.status_code, error.message)
    except (groq.GroqError, openai.OpenAIError, cartesia.CartesiaError) as error:
        return _unreachable(name, error)
    except (httpx.HTTPError, httpx2.HTTPError, OSError) as error:
        return _unreachable(name, error)


def _status_check(name: str, status: int, message: str) -> ProviderCheck:
    remedy = "try again later" if status >= 500 or status == 429 else f"see providers.{name} in the settings"
    if status in (401, 403):
        remedy = f"set {name.upper()}_API_KEY to a valid key"
    return ProviderCheck(name, ok=False, detail=f"HTTP {status}: {message}", remedy=remedy)


def _unreachable(name: str, error: BaseException) -> ProviderCheck:
    detail = f"no answer: {type(error).__name__}: {error}"
    return ProviderCheck(name, ok=False, detail=detail, remedy=f"check the network and providers.{name}.base_url")


async def _check_deepgram(providers: ProviderSettings) -> ProviderCheck:
    """A handshake with the model and the thresholds of a call: the only check that covers them all."""
    transcriber = DeepgramTranscriber(providers.deepgram, key_of(providers.deepgram.api_key))
    try:
        stream = await transcriber.open(TranscriptionRequest("preflight", AudioFormat("linear16", 16000), eager=True))
        await stream.close()
    finally:
        await transcriber.aclose()
    return ProviderCheck("deepgram", ok=True, detail=f"model {providers.deepgram.model} accepts a stream")


async def _check_groq(providers: ProviderSettings) -> ProviderCheck:
    wanted = providers.groq
    async with groq.AsyncGroq(
        api_key=key_of(wanted.api_key), base_url=wanted.base_url, max_retries=0, timeout=_TIMEOUT_S
    ) as client:
        served = [model.id for model in (await client.models.list()).data]
    return _model_check("groq", wanted.model, served)


async def _check_openai(providers: ProviderSettings) -> ProviderCheck:
    wanted = providers.openai
    async with openai.AsyncOpenAI(
        api_key=key_of(wanted.api_key), base_url=wanted.base_url, max_retries=0, timeout=_TIMEOUT_S
    ) as client:
        served = [model.id for model in (await client.models.list()).data]
    return _model_check("openai", wanted.model, served)


def _model_check(name: str, wanted: str, served: list[str]) -> ProviderCheck:
    if wanted in served:
        return ProviderCheck(name, ok=True, detail=f"model {wanted} is served")
    known = ", ".join(sorted(served)[:20])
    detail = f"model {wanted} is not served (retired, or not for this key)"
    return ProviderCheck(name, ok=False, detail=detail, remedy=f"set providers.{name}.model to one of: {known}")


async def _check_cartesia(providers: ProviderSettings) -> ProviderCheck:
    """The voice, and the model by speaking one short word: no list of models exists."""
    wanted = providers.cartesia
    voice = wanted.voice or DEFAULT_VOICE
    async with cartesia.AsyncCartesia(
        api_key=key_of(wanted.api_key), base_url=wanted.base_url, max_retries=0, timeout=_TIMEOUT_S
    ) as client:
        try:
            await client.voices.get(voice)
        except cartesia.NotFoundError:
            remedy = "set CARTESIA_VOICE to the id of a voice of your account"
            return ProviderCheck("cartesia", ok=False, detail=f"no voice {voice}", remedy=remedy)
    await _speak_one_word(providers)
    return ProviderCheck("cartesia", ok=True, detail=f"model {wanted.model} speaks with voice {voice}")


async def _speak_one_word(providers: ProviderSettings) -> None:
    synthesizer = CartesiaSynthesizer(providers.cartesia, key_of(providers.cartesia.api_key))
    try:
        connection = await synthesizer.open(SynthesisRequest("preflight", AudioFormat("linear16", 8000)))
        try:
            utterance = connection.utterance()
            await utterance.push("Yes. ")
            await utterance.finish()
            async for _ in utterance.events():
                continue
        finally:
            await connection.close()
    finally:
        await synthesizer.aclose()
