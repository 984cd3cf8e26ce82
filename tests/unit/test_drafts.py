"""Drafts of an answer: they do no harm, become the answer where they fit, and stop where they do not pay."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.conversation.speculation import Speculation
from serve_app.conversation.turn_types import ReplyFailed, ReplyFinished, ToolCalled
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.scripted_llm import Answer, ScriptedModel
from serve_app.settings import SpeculationSettings
from tests.unit.speaker_fixtures import Booth, asked

TALK = asked("Hello", "How are you?", "When do you open")


def call_a_tool(request: ChatRequest) -> Answer:
    return Answer(tool="end_call")


def test_a_draft_touches_nothing_but_the_model() -> None:
    booth = Booth(llm=ScriptedModel(script=call_a_tool))

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(5)
        assert booth.model.requests == [TALK]
        assert booth.events == [] and booth.playout.idle
        assert (booth.tts.utterances, booth.tts.connections_open) == (0, 0)

    booth.run(act)


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.21, 0.25, 5.0])
def test_a_dropped_draft_closes_its_stream_at_once_and_is_never_heard(after_s: float) -> None:
    booth = Booth()

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(after_s)
        drafted = len(booth.model.requests)
        booth.speaker.drop_draft(1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert booth.model.streams_open == 0
        booth.speaker.start_reply(booth.group, 1, TALK, draft=1)
        await booth.ended(1)
        assert len(booth.model.requests) == drafted + 1

    booth.run(act)
    assert booth.speculation.total.commits == 0 and booth.speculation.total.drafts == 1
    assert booth.speculation.total.wasted_tokens > 0
    assert booth.nothing_is_open()


@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.22, 1.0])
def test_a_draft_that_fits_becomes_the_answer(after_s: float) -> None:
    booth = Booth(llm=ScriptedModel(answers=["We open at eight. Until six."]))

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 7, TALK)
        await asyncio.sleep(after_s)
        probe = booth.transcript.probe(1)
        probe.turn_ended_at = asyncio.get_running_loop().time()
        booth.speaker.start_reply(booth.group, 1, TALK, draft=7)
        spoken = await booth.drained(1)
        assert spoken.heard_text == "We open at eight. Until six."
        assert probe.speculative

    booth.run(act)
    assert len(booth.model.requests) == 1
    assert booth.speculation.total.commits == booth.speculation.total.drafts == 1
    # The model's wait is 0.2 s: never more than that, nor than the draft's lead, is saved.
    assert booth.speculation.total.saved_s == pytest.approx(min(after_s, 0.2), abs=0.011)
    assert booth.nothing_is_open()


def test_tool_calls_of_a_draft_are_carried_out_when_it_is_the_answer_and_not_before() -> None:
    booth = Booth(llm=ScriptedModel(script=call_a_tool))

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(1)
        assert booth.events == []
        booth.speaker.start_reply(booth.group, 1, TALK, draft=1)
        await booth.ended(1)

    booth.run(act)
    assert booth.events == [ToolCalled(1, "end_call", {}), ReplyFinished(1)]


def test_a_draft_that_failed_is_as_if_there_were_none() -> None:
    booth = Booth()
    booth.model.fail("429", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(0.5)
        booth.speaker.start_reply(booth.group, 1, TALK, draft=1)
        assert (await booth.drained(1)).heard_text == "This is answer number 2."
        assert not booth.transcript.probe(1).speculative

    booth.run(act)
    assert booth.of(ReplyFailed) == []
    assert booth.speculation.total.drafts == 1 and booth.speculation.total.commits == 0


def test_a_draft_of_another_talk_is_not_the_answer() -> None:
    booth = Booth()

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, asked("Hello", "How are", "When do you open"))
        await asyncio.sleep(0.5)
        booth.speaker.start_reply(booth.group, 1, TALK, draft=1)
        await booth.ended(1)
        assert booth.model.requests[-1] == TALK and len(booth.model.requests) == 2

    booth.run(act)
    assert booth.nothing_is_open()


@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.23, 0.6])
def test_cancelling_the_answer_closes_the_drafts_stream(after_s: float) -> None:
    booth = Booth(llm=ScriptedModel(answers=["A long answer that goes on for a while, word by word by word."]))

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(0.15)
        booth.speaker.start_reply(booth.group, 1, TALK, draft=1)
        await asyncio.sleep(after_s)
        booth.speaker.cancel(1)
        await asyncio.sleep(0.001)
        assert booth.nothing_is_open()
        events = list(booth.events)
        await asyncio.sleep(5)
        assert booth.events == events

    booth.run(act)


# --- whether they pay ------------------------------------------------------------------------------------------------


def judge(**settings: float) -> Speculation:
    return Speculation(SpeculationSettings.model_validate({"min_samples": 4, "retry_after_s": 60, **settings}))


def test_drafts_that_are_dropped_too_often_are_switched_off_for_a_while() -> None:
    speculation = judge(min_hit_rate=0.5, max_wasted_share=1)
    for _ in range(3):
        speculation.dropped(10, now=100)
    assert speculation.allowed(100), "three are no sample"
    speculation.committed(now=100)
    assert not speculation.allowed(100) and not speculation.allowed(159)
    assert speculation.allowed(160)
    for _ in range(3):
        speculation.committed(now=161)
    speculation.dropped(10, now=161)
    assert speculation.allowed(161), "judged anew, by what came since"
    assert speculation.total.drafts == 8 and speculation.total.commits == 4


def test_drafts_that_cost_too_much_are_switched_off() -> None:
    speculation = judge(min_hit_rate=0, max_wasted_share=0.4)
    for _ in range(4):
        speculation.answered(50)
        speculation.dropped(20, now=0)
    assert speculation.allowed(0) and speculation.total.wasted_share == pytest.approx(80 / 280)
    speculation.dropped(200, now=0)
    assert not speculation.allowed(0)


def test_switched_off_by_the_settings_no_draft_begins() -> None:
    booth = Booth(speculation=Speculation(SpeculationSettings(enabled=False)))

    async def act(booth: Booth) -> None:
        booth.speaker.start_draft(booth.group, 1, TALK)
        await asyncio.sleep(0.5)
        assert booth.model.requests == []
        booth.speaker.drop_draft(1)
        booth.speaker.start_reply(booth.group, 1, TALK, draft=1)
        await booth.ended(1)

    booth.run(act)
    assert len(booth.model.requests) == 1 and booth.speculation.total.drafts == 0
