"""Replies: text, tools, cancelling, and providers that fail on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from serve_app.conversation.speech import LONGEST_TAIL_S, SLOWEST_CHARS_PER_S
from serve_app.conversation.turn_types import FailOver, ReplyFailed, ReplyFinished, ReplySentence, SpeakLine, ToolCalled
from serve_app.errors import ProviderError
from serve_app.providers.base import ChatEvent, ChatFinished, ChatRequest, TextDelta, ToolCall
from serve_app.providers.ranking import Ranking
from serve_app.scenarios.scripted_llm import ScriptedModel
from serve_app.scenarios.scripted_tts import CHAR_S, TtsPlan
from tests.unit.session_fixtures import make_agent
from tests.unit.speaker_fixtures import AVOID_FAILED_S, Booth, asked

TALK = asked("Hello", "How are you?", "Tell me more")
LONG = "The first sentence has some words. The second one has a few more of them. And there is a third."


class ToldModel:
    """Says just these events."""

    name = "told"

    def __init__(self, *events: ChatEvent) -> None:
        self.events: Sequence[ChatEvent] = events
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
        self.requests.append(request)
        for event in self.events:
            await asyncio.sleep(0.01)
            yield event

    async def warm(self) -> None: ...

    async def aclose(self) -> None: ...


def play(booth: Booth, *, generation: int = 1) -> Booth:
    """One reply, to its end."""

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, generation, TALK)
        await booth.ended(generation)

    booth.run(act)
    return booth


def test_a_reply_is_told_piece_by_piece_and_heard_whole() -> None:
    booth = Booth(llm=ScriptedModel(answers=[LONG]))

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        assert (await booth.drained(1)).heard_text == LONG
        probe = booth.transcript.probe(1)
        assert None not in (probe.first_token_at, probe.first_sentence_at, probe.first_audio_at)

    booth.run(act)
    assert "".join(event.text for event in booth.of(ReplySentence)) == LONG
    assert len(booth.of(ReplySentence)) >= 3
    assert booth.events[-1] == ReplyFinished(1)
    assert " ".join(booth.heard) == LONG
    assert booth.nothing_is_open() and booth.tts.connections_open == 0


@pytest.mark.parametrize("after_ms", [0, 1, 49, 50, 51, 199, 201, 230, 290, 310, 400, 700, 2000])
def test_a_cancelled_reply_leaves_nothing_open_and_says_nothing_more(after_ms: int) -> None:
    booth = Booth(llm=ScriptedModel(answers=[LONG]))

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await asyncio.sleep(after_ms / 1000)
        booth.speaker.cancel(1)
        booth.playout.interrupt(asyncio.get_running_loop().time())
        for _ in range(4):
            await asyncio.sleep(0)
        assert booth.nothing_is_open()
        heard, events = list(booth.heard), list(booth.events)
        await asyncio.sleep(10)
        assert (booth.heard, booth.events) == (heard, events)

    booth.run(act)
    assert booth.tts.connections_open == 0


# --- tools -----------------------------------------------------------------------------------------------------------


def test_a_reply_that_only_calls_tools_is_no_failure_and_needs_no_synthesizer() -> None:
    calls = (ToolCall("1", "switch_language", '{"language": "es"}'), ToolCall("2", "end_call", ""))
    booth = play(Booth(llm=ToldModel(*calls, ChatFinished("tool_calls"))))
    assert booth.events == [
        ToolCalled(1, "switch_language", {"language": "es"}),
        ToolCalled(1, "end_call", {}),
        ReplyFinished(1),
    ]
    assert booth.tts.utterances == 0


def test_the_text_of_a_reply_comes_before_its_tool_calls() -> None:
    text = TextDelta("Goodbye then.")
    booth = play(Booth(llm=ToldModel(text, ToolCall("1", "end_call", "null"), ChatFinished("tool_calls"))))
    assert booth.events == [ReplySentence(1, "Goodbye then."), ToolCalled(1, "end_call", {}), ReplyFinished(1)]


@pytest.mark.parametrize("arguments", ['{"reason": ', "[1]", '"text"', "7"])
def test_arguments_that_are_no_object_fail_the_reply_and_carry_nothing_out(arguments: str) -> None:
    calls = (ToolCall("1", "end_call", "{}"), ToolCall("2", "switch_language", arguments))
    booth = play(Booth(llm=ToldModel(*calls, ChatFinished("tool_calls"))))
    (failed,) = booth.events
    assert isinstance(failed, ReplyFailed)
    assert (failed.stage, failed.retryable, failed.has_alternative) == ("llm", True, False)
    assert "switch_language" in failed.detail


@pytest.mark.parametrize("arguments", ['{"reason": ', "[1]", '"text"', "7", "", '{"reason": 7}', '{"why": "x"}'])
def test_an_opt_out_counts_by_its_name_whatever_comes_with_it(arguments: str) -> None:
    calls = (ToolCall("1", "end_call", "{"), ToolCall("2", "opt_out", arguments))
    booth = play(Booth(llm=ToldModel(*calls, ChatFinished("tool_calls"))))
    assert booth.events == [ToolCalled(1, "opt_out", {"reason": "asked for by the callee"}), ReplyFinished(1)]


@pytest.mark.parametrize(
    "events", [(), (TextDelta("Half a"),), (ToolCall("1", "end_call", "{}"),), (ChatFinished("stop"),)]
)
def test_an_answer_without_an_end_or_without_anything_in_it_failed(events: tuple[ChatEvent, ...]) -> None:
    booth = play(Booth(llm=ToldModel(*events)))
    (failed,) = booth.of(ReplyFailed)
    assert failed.stage == "llm" and failed.retryable
    assert booth.of(ToolCalled) == []


# --- the next model --------------------------------------------------------------------------------------------------


async def answer_through(booth: Booth, generation: int = 1) -> None:
    """What the turn machine does with a failure."""
    booth.speaker.start_reply(booth.group, generation, TALK)
    handled = 0
    while not any(event == ReplyFinished(generation) for event in booth.events):
        await asyncio.sleep(0.01)
        failures = [failed for failed in booth.of(ReplyFailed) if failed.generation == generation]
        for failed in failures[handled:]:
            handled += 1
            assert failed.has_alternative, failed
            booth.speaker.fail_over(booth.group, FailOver(generation, failed.stage, "failed"))
    await booth.drained(generation)


@pytest.mark.parametrize("plan", ["401", "429", "500", "empty", "half_open"])
def test_the_next_model_gets_the_same_request(plan: str) -> None:
    booth = Booth(second_llm=ScriptedModel(answers=["Here I am."], name="second"))
    booth.model.plans = [plan]  # type: ignore[list-item]
    booth.run(answer_through)
    assert booth.second_llm is not None
    assert booth.model.requests == booth.second_llm.requests == [TALK]
    assert " ".join(booth.heard) == "Here I am."
    assert booth.nothing_is_open()


def test_a_model_that_is_late_is_dropped_when_the_turn_machine_says_so() -> None:
    booth = Booth(second_llm=ScriptedModel(answers=["Here I am."]))
    booth.model.fail("hang", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await asyncio.sleep(2.5)
        assert booth.model.streams_open == 1
        booth.speaker.fail_over(booth.group, FailOver(1, "llm", "late"))
        await asyncio.sleep(0.001)
        assert booth.model.streams_open == 0
        await booth.drained(1)

    booth.run(act)
    assert " ".join(booth.heard) == "Here I am."
    assert booth.of(ReplyFailed) == []


def test_the_next_model_goes_on_where_the_first_was_cut() -> None:
    booth = Booth(
        llm=ScriptedModel(answers=["The first sentence is whole. The second one never comes to its end, sadly."]),
        second_llm=ScriptedModel(answers=["The second one does."]),
    )
    booth.model.fail("cut", 1)
    booth.run(answer_through)
    assert booth.second_llm is not None
    (request,) = booth.second_llm.requests
    *talk, said, instruction = request.messages
    assert tuple(talk) == TALK.messages
    assert (said.role, said.content.strip(), instruction.role) == (
        "assistant",
        "The first sentence is whole.",
        "system",
    )
    assert " ".join(booth.heard) == "The first sentence is whole. The second one does."
    (spoken,) = booth.spoken
    assert spoken.heard_text.split() == booth.heard


def test_what_a_model_said_before_it_failed_is_spoken_where_no_other_can_go_on() -> None:
    booth = Booth(llm=ScriptedModel(answers=["The first sentence is whole. The second one never comes to its end."]))
    booth.model.fail("cut", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await booth.ended(1)
        booth.speaker.cancel(1)
        assert (await booth.drained(1)).heard_text.strip() == "The first sentence is whole."

    booth.run(act)
    (failed,) = booth.of(ReplyFailed)
    assert (failed.stage, failed.has_alternative) == ("llm", False)


def test_a_reply_changes_its_model_once() -> None:
    booth = Booth(second_llm=ScriptedModel(plans=["500"]))
    booth.model.fail("500", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await booth.ended(1)
        booth.speaker.fail_over(booth.group, FailOver(1, "llm", "failed"))
        await booth.until(lambda: len(booth.of(ReplyFailed)) == 2)
        booth.speaker.fail_over(booth.group, FailOver(1, "llm", "failed"))
        await asyncio.sleep(1)

    booth.run(act)
    assert [failed.has_alternative for failed in booth.of(ReplyFailed)] == [True, False]
    assert booth.second_llm is not None
    assert (len(booth.model.requests), len(booth.second_llm.requests)) == (1, 1)


def test_later_turns_avoid_a_provider_that_failed_lately() -> None:
    booth = Booth(second_llm=ScriptedModel())
    booth.model.fail("500", 1)

    async def act(booth: Booth) -> None:
        await answer_through(booth, 1)
        await answer_through(booth, 2)
        await asyncio.sleep(AVOID_FAILED_S)
        await answer_through(booth, 3)

    booth.run(act)
    assert booth.second_llm is not None
    assert (len(booth.model.requests), len(booth.second_llm.requests)) == (2, 2)
    assert len(booth.of(ReplyFailed)) == 1


def test_a_list_whose_entries_all_failed_lately_begins_with_the_first() -> None:
    one, two = object(), object()
    ranking = Ranking(one, two, avoid_failed_s=10)
    assert ranking.best(0) is one
    ranking.failed(one, 0)
    assert ranking.best(5) is two and ranking.best(10) is one
    ranking.failed(two, 5)
    assert ranking.best(5) is one
    assert ranking.best(5, without=[one]) is two and ranking.best(5, without=[one, two]) is None


# --- the next synthesizer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["429", "fail", "half_open", "silent", "cut"])
@pytest.mark.parametrize("timed", [True, False])
def test_the_next_synthesizer_speaks_what_was_not_spoken(plan: TtsPlan, timed: bool) -> None:
    booth = Booth(llm=ScriptedModel(answers=[LONG]), two_voices=True)
    booth.tts.times_words = booth.second_tts.times_words = timed
    booth.tts.fail(plan, 1)
    booth.run(answer_through)
    (spoken,) = booth.spoken
    assert spoken.heard_text == spoken.text == LONG and not spoken.interrupted
    heard = " ".join(booth.heard).split()
    if plan == "cut":
        # Cut inside a word: it is said again from its beginning, at most one word off.
        assert 0 <= len(heard) - len(LONG.split()) <= (1 if timed else 3)
        assert set(heard) == set(LONG.split())
    else:
        assert heard == LONG.split()
    assert booth.nothing_is_open()


@pytest.mark.parametrize("late_s", [0.3, 1.0, 2.5])
def test_a_synthesizer_that_stalls_is_left_in_the_middle(late_s: float) -> None:
    booth = Booth(llm=ScriptedModel(answers=[LONG]), two_voices=True)
    booth.tts.fail("stall", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await asyncio.sleep(late_s)
        booth.speaker.fail_over(booth.group, FailOver(1, "tts", "late"))
        await asyncio.sleep(0.001)
        assert booth.tts.utterances_open == 0 and booth.tts.connections_open == 0
        await booth.drained(1)

    booth.run(act)
    (spoken,) = booth.spoken
    assert spoken.heard_text == LONG
    assert booth.nothing_is_open()


def test_an_interruption_after_a_change_of_voice_is_cut_at_the_right_word() -> None:
    """The second voice's word timings begin where the first one's audio ended."""
    for cut_after_s in (1.0, 2.0, 3.0, 4.0):
        booth = Booth(llm=ScriptedModel(answers=[LONG]), two_voices=True)
        booth.tts.fail("cut", 1)

        async def act(booth: Booth, cut_after_s: float = cut_after_s) -> None:
            booth.speaker.start_reply(booth.group, 1, TALK)
            await booth.ended(1)
            booth.speaker.fail_over(booth.group, FailOver(1, "tts", "failed"))
            await asyncio.sleep(cut_after_s)
            booth.speaker.cancel(1)
            booth.spoken += booth.playout.interrupt(asyncio.get_running_loop().time())

        booth.run(act)
        (spoken,) = booth.spoken
        # 60 ms for each character; of the word that plays when it is cut, and of the one that was said twice, one each.
        said = spoken.heard_text.split()
        assert LONG.startswith(spoken.heard_text)
        assert abs(sum(len(word) + 1 for word in said) * 0.06 - spoken.played_ms / 1000) <= 1.3


def test_text_is_cut_by_the_rules_of_the_language_that_is_spoken() -> None:
    """Before a change of the synthesizer and after it: in Spanish no sentence ends with "Dra."."""
    said, question = "La Dra. Ruiz llega tarde. ", "¿Espera Ud.?"
    booth = Booth(agent=make_agent(language="es"), llm=ScriptedModel(answers=[said + question]), two_voices=True)
    booth.tts.fail("fail", 1)
    booth.run(answer_through)
    assert [event.text for event in booth.of(ReplySentence)] == [said, question]
    assert booth.second_tts.texts == ["La doctora Ruiz llega tarde. ", "¿Espera usted?"]


@pytest.mark.parametrize("plan", ["endless", "no_end"])
@pytest.mark.parametrize("two_voices", [True, False])
def test_speech_that_is_whole_and_does_not_end_is_ended(plan: TtsPlan, two_voices: bool) -> None:
    """No apology for it, and no other voice: the callee heard every word."""
    booth = Booth(llm=ScriptedModel(answers=[LONG]), two_voices=two_voices)
    booth.tts.fail(plan, 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        causes = booth.transcript.probe(1).causes
        spoken = await booth.drained(1)
        assert (spoken.heard_text, spoken.interrupted) == (LONG, False)
        # 60 ms for each character, and no more than the tail that any speech may have.
        assert 0 <= spoken.played_ms / 1000 - (len(LONG) + 1) * CHAR_S <= LONGEST_TAIL_S + 1
        assert causes == ["tts_failed"]

    booth.run(act)
    assert booth.of(ReplyFailed) == [] and len(booth.of(ReplyFinished)) == 1
    assert " ".join(booth.heard).split() == LONG.split()
    assert booth.second_tts.utterances == 0
    assert booth.nothing_is_open()


def test_untimed_speech_that_does_not_end_is_a_failure_once_it_is_far_too_long() -> None:
    booth = Booth(llm=ScriptedModel(answers=[LONG]))
    booth.tts.times_words = False
    booth.tts.fail("endless", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_reply(booth.group, 1, TALK)
        await booth.ended(1)
        assert booth.playout.audio_s(1) <= len(LONG) / SLOWEST_CHARS_PER_S + LONGEST_TAIL_S + 1

    booth.run(act)
    (failed,) = booth.of(ReplyFailed)
    assert (failed.stage, failed.has_alternative) == ("tts", False)
    assert "does not end" in failed.detail


def test_a_line_that_is_spoken_live_changes_its_voice_too() -> None:
    booth = Booth(two_voices=True)
    booth.tts.fail("fail", 1)

    async def act(booth: Booth) -> None:
        booth.speaker.start_line(booth.group, SpeakLine(1, "farewell", "Thank you. Goodbye."))
        await booth.ended(1)
        assert booth.of(ReplyFailed)[0].has_alternative
        booth.speaker.fail_over(booth.group, FailOver(1, "tts", "failed"))
        assert (await booth.drained(1)).heard_text == "Thank you. Goodbye."

    booth.run(act)


def test_a_stage_without_another_entry_has_no_alternative() -> None:
    booth = Booth()
    booth.tts.fail("fail", 1)
    play(booth)
    (failed,) = booth.of(ReplyFailed)
    assert (failed.stage, failed.has_alternative) == ("tts", False)


def test_a_fault_of_our_own_is_no_failure_of_a_provider() -> None:
    """It ends the call, instead of being told to the callee as an apology."""

    class Broken(ToldModel):
        async def stream(self, request: ChatRequest) -> AsyncIterator[ChatEvent]:
            yield TextDelta("One. ")
            raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        play(Booth(llm=Broken()))
    assert caught.group_contains(ZeroDivisionError) and not caught.group_contains(ProviderError)
