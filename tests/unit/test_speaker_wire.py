"""The speaker over the real SDKs against the stand-ins: what closes on the wire, and what takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from serve_app.conversation.lines import LineCache, make_lines
from serve_app.conversation.turn_types import FailOver, ReplyFailed, ReplyFinished, SpeakLine
from serve_app.provider_settings import FallbackSettings, LlmFallback, TtsFallback
from serve_app.providers.registry import make_providers
from serve_app.simulators.cartesia import CARTESIA
from serve_app.simulators.chat import CHAT
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.latency import Constant
from tests.unit.providers_fixtures import QUICK, Bed, eventually, running
from tests.unit.session_fixtures import OPENING
from tests.unit.speaker_fixtures import AUDIO, Booth, asked

TALK = asked("Hello", "How are you?", "Where can I park my car?")
SLOW = QUICK.model_copy(update={"llm_inter_token": Constant(ms=40)})


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    async with running(SimulatorConfig(latency=SLOW, recognise=False)) as first:
        yield first


@pytest.fixture
async def second() -> AsyncIterator[Bed]:
    async with running() as other:
        yield other


def booth_at(bed: Bed, second: Bed | None = None, **providers: Any) -> Booth:
    fallbacks = FallbackSettings()
    if second is not None:
        fallbacks = FallbackSettings(
            language_model=(LlmFallback(provider="groq", base_url=second.url),),
            text_to_speech=(TtsFallback(provider="cartesia", websocket_url=second.websocket_url),),
        )
    settings = bed.settings(**providers).model_copy(update={"fallbacks": fallbacks})
    return Booth(providers=make_providers(settings))


async def play(booth: Booth, act: Any) -> None:
    await booth.act_out(act)
    assert booth.providers is not None
    await booth.providers.aclose()


async def test_a_cancelled_reply_closes_its_http_stream_and_cancels_its_context(bed: Bed) -> None:
    booth = booth_at(bed)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await booth.until(lambda: booth.first_frame_at is not None)
        assert booth.of(ReplyFinished) == []
        booth.speaker.cancel(1)
        await eventually(lambda: bed.app[CHAT].streams_cut_by_client == 1)
        await eventually(lambda: bed.app[CARTESIA].cancelled_contexts == 1)

    await play(booth, act)
    await eventually(lambda: bed.app[CARTESIA].sockets == 0)


async def test_a_dropped_draft_closes_its_http_stream_and_knows_no_synthesizer(bed: Bed) -> None:
    booth = booth_at(bed)

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await eventually(lambda: len(bed.app[CHAT].recent) == 1)
        await asyncio.sleep(0.1)
        booth.speaker.drop_draft(1)
        await eventually(lambda: bed.app[CHAT].streams_cut_by_client == 1)
        assert booth.events == [] and bed.app[CARTESIA].sockets_opened == 0

    await play(booth, act)
    assert booth.speculation.total.wasted_tokens > 0


async def test_a_draft_that_becomes_the_answer_is_one_request(bed: Bed) -> None:
    booth = booth_at(bed)

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(0.1)
        booth.speaker.start_reply(booth.group, 1, replace(TALK), draft=1)
        await booth.ended(1)

    await play(booth, act)
    assert booth.events[-1] == ReplyFinished(1)
    assert len(bed.app[CHAT].recent) == 1 and bed.app[CHAT].streams_cut_by_client == 0


async def test_the_second_address_takes_over_from_a_model_that_hangs(bed: Bed, second: Bed) -> None:
    bed.fault("llm", "hang")
    booth = booth_at(bed, second)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await asyncio.sleep(0.2)
        booth.speaker.fail_over(booth.group, FailOver(1, "llm", "late"))
        await booth.ended(1)

    await play(booth, act)
    assert booth.of(ReplyFailed) == [] and booth.first_frame_at is not None
    assert len(second.app[CHAT].recent) == 1
    assert second.app[CARTESIA].sockets_opened == 0, "the other stage goes on as it was"


@pytest.mark.parametrize("fault", ["cut", "error_event", "close", "silent"])
async def test_the_second_address_speaks_on_where_the_first_synthesizer_broke(
    bed: Bed, second: Bed, fault: str
) -> None:
    bed.fault("cartesia", fault, after=3)
    booth = booth_at(bed, second, cartesia=bed.cartesia(audio_timeout_s=0.5))

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await booth.ended(1)
        (failed,) = booth.of(ReplyFailed)
        assert failed.stage == "tts" and failed.has_alternative
        booth.speaker.fail_over(booth.group, FailOver(1, "tts", "failed"))
        await booth.until(lambda: booth.events[-1] == ReplyFinished(1))
        # All of the text has audio, and none of it twice: by the ledger nothing is left to speak.
        assert booth.playout.unspoken_text(1).strip() == ""

    await play(booth, act)
    assert second.app[CARTESIA].sockets_opened == 1 and len(second.app[CHAT].recent) == 0
    for one in (bed, second):
        await eventually(lambda one=one: one.app[CARTESIA].sockets == 0)  # type: ignore[misc]


async def test_lines_made_by_the_real_client_are_spoken_without_a_connection(bed: Bed) -> None:
    booth = booth_at(bed)
    assert booth.providers is not None
    booth.lines = LineCache()
    synthesizer = booth.providers.tts.clients[0]
    made = await make_lines(booth.lines, synthesizer, "default", booth.agent, AUDIO)
    assert made >= 8 and await make_lines(booth.lines, synthesizer, "default", booth.agent, AUDIO) == 0
    await eventually(lambda: bed.app[CARTESIA].sockets == 0)
    opened = bed.app[CARTESIA].sockets_opened

    async def act(booth: Booth) -> None:
        booth.speaker.start_line(booth.group, SpeakLine(1, "opening", OPENING))
        assert booth.events == [ReplyFinished(1)]
        await booth.until(lambda: booth.first_frame_at is not None)
        await asyncio.sleep(0.5)
        (spoken,) = booth.playout.interrupt(asyncio.get_running_loop().time())
        assert spoken.interrupted and OPENING.startswith(spoken.heard_text)

    await play(booth, act)
    assert bed.app[CARTESIA].sockets_opened == opened
