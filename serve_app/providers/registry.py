"""Providers by name. A new one is a module and a line here (and a name and a section in the settings)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from pydantic import SecretStr

from serve_app.errors import SettingsError
from serve_app.provider_settings import ProviderEntry, ProviderSettings, StageKey
from serve_app.providers.base import LanguageModel, Providers, Synthesizer, Transcriber
from serve_app.providers.ranking import Ranking
from serve_app.settings import Settings

_T = TypeVar("_T")

# What is sent where no key is set. Mode `local` then points at the simulators, which accept it; a real provider
# answers 401 to it.
SIMULATED_KEY = "simulated"

# A module is imported when its provider is chosen: an SDK costs every session process up to 0.7 s of CPU at start.


def _deepgram(settings: ProviderSettings) -> Transcriber:
    from serve_app.providers.stt_deepgram import DeepgramTranscriber

    return DeepgramTranscriber(settings.deepgram, key_of(settings.deepgram.api_key))


def _groq(settings: ProviderSettings) -> LanguageModel:
    from serve_app.providers.llm_groq import GroqModel

    return GroqModel(settings.groq, key_of(settings.groq.api_key))


def _openai(settings: ProviderSettings) -> LanguageModel:
    from serve_app.providers.llm_openai import OpenAIModel

    return OpenAIModel(settings.openai, key_of(settings.openai.api_key))


def _cartesia(settings: ProviderSettings) -> Synthesizer:
    from serve_app.providers.tts_cartesia import CartesiaSynthesizer

    return CartesiaSynthesizer(settings.cartesia, key_of(settings.cartesia.api_key))


TRANSCRIBERS: Mapping[str, Callable[[ProviderSettings], Transcriber]] = {"deepgram": _deepgram}
LANGUAGE_MODELS: Mapping[str, Callable[[ProviderSettings], LanguageModel]] = {"groq": _groq, "openai": _openai}
SYNTHESIZERS: Mapping[str, Callable[[ProviderSettings], Synthesizer]] = {"cartesia": _cartesia}


def key_of(secret: SecretStr | None) -> str:
    """The key to send."""
    return secret.get_secret_value() if secret is not None else SIMULATED_KEY


def make_providers(settings: Settings) -> Providers:
    """The clients of a process. Call it inside the event loop that uses them. Raises SettingsError."""
    return Providers(
        stt=_make(TRANSCRIBERS, "speech_to_text", settings),
        llm=_make(LANGUAGE_MODELS, "language_model", settings),
        tts=_make(SYNTHESIZERS, "text_to_speech", settings),
    )


def make_synthesizer(settings: Settings) -> Synthesizer:
    """The first entry of text to speech alone, for speech that is made beforehand. Raises SettingsError."""
    return _client(SYNTHESIZERS, settings.entries("text_to_speech")[0])


def _make(
    factories: Mapping[str, Callable[[ProviderSettings], _T]], stage: StageKey, settings: Settings
) -> Ranking[_T]:
    clients = [_client(factories, entry) for entry in settings.entries(stage)]
    return Ranking(*clients, avoid_failed_s=settings.fallbacks.avoid_failed_s)


def _client(factories: Mapping[str, Callable[[ProviderSettings], _T]], entry: ProviderEntry) -> _T:
    factory = factories.get(entry.name)
    if factory is None:
        raise SettingsError(f"{entry.stage}: no provider {entry.name!r}; known: {', '.join(sorted(factories))}")
    return factory(entry.providers)
