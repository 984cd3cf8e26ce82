"""The registry by name, and the preflight check of the configured providers."""

from __future__ import annotations

import pytest

from serve_app.errors import SettingsError
from serve_app.providers.base import ChatFinished, ChatRequest, Message
from serve_app.providers.preflight import check_providers
from serve_app.providers.registry import make_providers
from serve_app.settings import Settings
from tests.unit.providers_fixtures import running


async def test_the_configured_providers_are_made_once_and_closed_twice() -> None:
    async with running() as bed:
        providers = make_providers(bed.settings())
        assert (providers.stt.name, providers.llm.name, providers.tts.name) == ("deepgram", "groq", "cartesia")
        request = ChatRequest("c", (Message("user", "Hello"),), max_tokens=400)
        assert isinstance([event async for event in providers.llm.stream(request)][-1], ChatFinished)
        await providers.aclose()
        await providers.aclose()


async def test_another_language_model_is_a_setting() -> None:
    providers = make_providers(Settings(language_model="openai"))
    assert providers.llm.name == "openai"
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
