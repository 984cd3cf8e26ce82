"""The registry by name, and the preflight check of the configured providers."""

from __future__ import annotations

import pytest

from serve_app.errors import SettingsError
from serve_app.provider_settings import FallbackSettings, LlmFallback, TtsFallback
from serve_app.providers.base import ChatFinished, ChatRequest, Message, SynthesisRequest
from serve_app.providers.preflight import check_providers
from serve_app.providers.registry import make_providers
from serve_app.settings import Settings
from serve_app.simulators.cartesia import CARTESIA
from serve_app.simulators.chat import CHAT
from tests.unit.providers_fixtures import LINEAR16, running


async def test_the_configured_providers_are_made_once_and_closed_twice() -> None:
    async with running() as bed:
        providers = make_providers(bed.settings())
        (stt,), (llm,), (tts,) = providers.stt.clients, providers.llm.clients, providers.tts.clients
        assert (stt.name, llm.name, tts.name) == ("deepgram", "groq", "cartesia")
        request = ChatRequest("c", (Message("user", "Hello"),), max_tokens=400)
        assert isinstance([event async for event in llm.stream(request)][-1], ChatFinished)
        await providers.aclose()
        await providers.aclose()


async def test_another_language_model_is_a_setting() -> None:
    providers = make_providers(Settings(language_model="openai"))
    assert [model.name for model in providers.llm.clients] == ["openai"]
    await providers.aclose()


def test_an_unknown_name_lists_the_known_ones() -> None:
    settings = Settings.model_construct(**{**Settings().__dict__, "language_model": "grok"})
    with pytest.raises(SettingsError, match=r"grok.*groq, openai"):
        make_providers(settings)


async def test_preflight_finds_nothing_wrong_with_working_providers() -> None:
    async with running() as bed:
        checks = await check_providers(bed.settings())
        assert [(check.name, check.ok) for check in checks] == [("deepgram", True), ("groq", True), ("cartesia", True)]
        settings = bed.settings().model_copy(update={"language_model": "openai"})
        assert [check.ok for check in await check_providers(settings)] == [True, True, True]


async def test_preflight_names_the_remedy() -> None:
    async with running() as bed:
        wrong = bed.settings(
            deepgram=bed.deepgram(api_key="invalid"),
            groq=bed.groq(model="llama-3.3-70b-versatile"),
            cartesia=bed.cartesia(voice="nobody"),
        )
        checks = {check.name: check for check in await check_providers(wrong)}
        assert not any(check.ok for check in checks.values())
        assert "DEEPGRAM_API_KEY" in checks["deepgram"].remedy
        assert "openai/gpt-oss-20b" in checks["groq"].remedy
        assert "CARTESIA_VOICE" in checks["cartesia"].remedy
        bad_keys = bed.settings(groq=bed.groq(api_key="invalid"), cartesia=bed.cartesia(api_key="invalid"))
        remedies = [check.remedy for check in await check_providers(bad_keys) if not check.ok]
        assert len(remedies) == 2 and all("_API_KEY" in remedy for remedy in remedies)
        settings = bed.settings()
    # Nobody listens there any more.
    checks_down = await check_providers(settings)
    assert not any(check.ok for check in checks_down) and all(check.remedy for check in checks_down)


async def test_every_entry_of_the_lists_is_made_and_checked() -> None:
    async with running() as bed, running() as other:
        fallbacks = FallbackSettings(
            language_model=(LlmFallback(provider="groq", model="openai/gpt-oss-120b"),),
            text_to_speech=(
                TtsFallback(provider="cartesia", base_url=other.url, websocket_url=other.websocket_url),
                TtsFallback(provider="cartesia", voice="nobody"),
            ),
        )
        settings = bed.settings().model_copy(update={"fallbacks": fallbacks})
        providers = make_providers(settings)
        assert [len(ranking.clients) for ranking in (providers.stt, providers.llm, providers.tts)] == [1, 2, 3]
        request = ChatRequest("c", (Message("user", "Hello"),), max_tokens=400)
        for model in providers.llm.clients:
            assert isinstance([event async for event in model.stream(request)][-1], ChatFinished)
        assert [body["model"] for body in bed.app[CHAT].recent] == ["openai/gpt-oss-20b", "openai/gpt-oss-120b"]
        sounds = {tts.identify(SynthesisRequest("c", LINEAR16)) for tts in providers.tts.clients}
        assert len(sounds) == 2, "the second server sounds like the first, another voice does not"
        await providers.aclose()
        checks = {check.name: check.ok for check in await check_providers(settings)}
        assert checks == {
            "deepgram": True,
            "groq": True,
            "groq (fallbacks.language_model.0)": True,
            "cartesia": True,
            "cartesia (fallbacks.text_to_speech.0)": True,
            "cartesia (fallbacks.text_to_speech.1)": False,
        }
        assert other.app[CARTESIA].sockets_opened == 1
