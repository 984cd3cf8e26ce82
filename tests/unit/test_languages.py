"""Languages on the wire: the unmodified SDKs, and stand-ins that refuse what the providers refuse."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from serve_app.errors import ProviderError
from serve_app.providers.base import SynthesisRequest, TranscriptionRequest, TurnEnded
from serve_app.providers.stt_deepgram import DeepgramTranscriber
from serve_app.providers.tts_cartesia import CartesiaSynthesizer
from serve_app.simulators.flux_stream import FluxStream
from serve_app.simulators.prepared_speech import SpeechCache
from tests.unit.providers_fixtures import LINEAR16, Bed, eventually, feed, spoken
from tests.unit.test_providers_stt import until_turn_end
from tests.unit.test_simulators_flux import KEY, QUERY, Client, connected

pytest_plugins = ("tests.unit.providers_fixtures",)

ENGLISH = TranscriptionRequest("call-1", LINEAR16)


class Told:
    """What streams of the stand-in were opened with, and what they answered to Configure."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hints: list[tuple[str, ...] | None] = []
        self.answers: list[dict[str, Any]] = []
        put, began = FluxStream._put, FluxStream.on_ws_connected

        def on_ws_connected(stream: FluxStream, transport: Any) -> None:
            self.hints.append(stream._parameters.language_hints)
            began(stream, transport)

        def noted(stream: FluxStream, message: dict[str, Any], *rest: Any, **options: Any) -> None:
            if str(message.get("type")).startswith("Configure"):
                self.answers.append(message)
            put(stream, message, *rest, **options)

        monkeypatch.setattr(FluxStream, "on_ws_connected", on_ws_connected)
        monkeypatch.setattr(FluxStream, "_put", noted)


@pytest.mark.parametrize(
    ("request_", "hints"),
    [
        (ENGLISH, None),
        (replace(ENGLISH, languages=("en",)), None),
        (replace(ENGLISH, language="es"), ("es",)),
        (replace(ENGLISH, languages=("en", "es", "fr")), ("en", "es", "fr")),
        (replace(ENGLISH, language="fr", languages=("fr", "en")), ("fr", "en")),
    ],
)
async def test_english_alone_has_its_own_model_everything_else_the_multilingual_one(
    stt: DeepgramTranscriber,
    monkeypatch: pytest.MonkeyPatch,
    request_: TranscriptionRequest,
    hints: tuple[str, ...] | None,
) -> None:
    told = Told(monkeypatch)
    stream = await stt.open(request_)
    await stream.close()
    assert told.hints == [hints]


async def test_a_switch_is_told_to_the_live_stream_and_turns_go_on(
    bed: Bed, stt: DeepgramTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch)
    stream = await stt.open(replace(ENGLISH, languages=("en", "es")))
    stream.configure("es")
    await eventually(lambda: bool(told.answers))
    assert told.answers[0]["type"] == "ConfigureSuccess"
    assert told.answers[0]["language_hints"] == ["es"]
    bed.scripts.expect("call-1", "Sí, esa hora me viene bien.")
    await feed(stream.send, spoken("Yes that time works for me."))
    *_, event = await until_turn_end(stream)
    await stream.close()
    assert isinstance(event, TurnEnded) and event.text == "Sí, esa hora me viene bien."


async def test_a_configuration_that_is_refused_does_not_end_the_stream(
    bed: Bed, stt: DeepgramTranscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told(monkeypatch)
    stream = await stt.open(replace(ENGLISH, languages=("en", "es")))
    stream.configure("tlh")
    await eventually(lambda: bool(told.answers))
    assert told.answers[0]["type"] == "ConfigureFailure"
    bed.scripts.expect("call-1", "Hello.")
    await feed(stream.send, spoken("Hello."))
    *_, event = await until_turn_end(stream)
    await stream.close()
    assert isinstance(event, TurnEnded) and event.text == "Hello."


async def test_an_english_stream_cannot_switch_and_says_so(stt: DeepgramTranscriber) -> None:
    stream = await stt.open(ENGLISH)
    with pytest.raises(ProviderError, match="English only") as caught:
        stream.configure("es")
    assert not caught.value.retryable
    await stream.close()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"language_hint": "es"}, 400),
        ({"model": "flux-general-multi", "language_hint": "tlh"}, 400),
        ({"model": "flux-general-multi", "language_hint": "en-GB"}, 101),
        ({"model": "flux-general-multi"}, 101),
        ({"language": "es"}, 400),
    ],
)
async def test_the_handshake_knows_its_languages(bed: Bed, query: dict[str, str], status: int) -> None:
    async with aiohttp.ClientSession() as session:
        if status == 101:
            async with session.ws_connect(f"{bed.url}/v2/listen", params={**QUERY, **query}, headers=KEY) as socket:
                assert (await Client(socket).next())["type"] == "Connected"
            return
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"{bed.url}/v2/listen", params={**QUERY, **query}, headers=KEY)
    assert caught.value.status == status


async def test_a_turn_tells_the_hints_in_force_and_a_bad_configure_changes_nothing(bed: Bed) -> None:
    async with connected(bed, model="flux-general-multi", language_hint="es") as client:
        await client.socket.send_json({"type": "Configure", "language_hints": ["fr", "tlh"]})
        assert (await client.next())["type"] == "ConfigureFailure"
        await client.socket.send_json({"type": "Configure", "thresholds": {"eot_threshold": 0.8}})
        assert (await client.next())["language_hints"] == ["es"], "what is left out keeps its value"
        bed.scripts.expect("call-1", "Hola.")
        await client.socket.send_bytes(spoken("Hello."))
        assert (await client.until(event="EndOfTurn"))["languages_hinted"] == ["es"]
    async with connected(bed) as client:
        await client.socket.send_json({"type": "Configure", "language_hints": ["es"]})
        assert (await client.next())["type"] == "ConfigureFailure"
        bed.scripts.expect("call-1", "Hello.")
        await client.socket.send_bytes(spoken("Hello."))
        assert "languages_hinted" not in await client.until(event="EndOfTurn")


async def test_the_agent_speaks_the_language_of_the_request(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    languages: list[str] = []
    get = SpeechCache.get

    async def noted(cache: SpeechCache, *arguments: Any, language: str = "en", **options: Any) -> Any:
        languages.append(language)
        return await get(cache, *arguments, language=language, **options)

    monkeypatch.setattr(SpeechCache, "get", noted)
    tts = CartesiaSynthesizer(bed.cartesia(), "k")
    for language in ("es", "fr"):
        connection = await tts.open(SynthesisRequest("call-1", LINEAR16, language=language))
        utterance = connection.utterance()
        await utterance.push("Hola. ")
        await utterance.finish()
        async with asyncio.timeout(30):
            assert [event async for event in utterance.events()]
        await connection.close()
    assert languages == ["es", "fr"]
    connection = await tts.open(SynthesisRequest("call-1", LINEAR16, language="tlh"))
    utterance = connection.utterance()
    await utterance.push("nuqneH ")
    with pytest.raises(ProviderError, match="language_not_supported") as caught:
        async with asyncio.timeout(30):
            [event async for event in utterance.events()]
    assert not caught.value.retryable
    await connection.close()
    await tts.aclose()
