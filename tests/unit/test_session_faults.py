"""Providers that fail: the callee hears an apology or a goodbye, and never more than 5 s of nothing."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.conversation.agent import AgentPolicies
from tests.unit.session_fixtures import LlmPlan, Scene, SttPlan, TtsPlan

APOLOGY = AgentPolicies().apology
FAILURE_FAREWELL = AgentPolicies().failure_farewell
LONGEST_SILENCE_S = 5.0


async def hangs_up_after_two(scene: Scene) -> None:
    await scene.converse("First question", "Second question")
    scene.net.drop(1000)


async def waits_long_for_answers(scene: Scene) -> None:
    """A pause in the middle of an answer is not taken for its end."""
    for text in ("First question", "Second question"):
        await scene.net.agent_has_spoken(quiet_s=4.7)
        await scene.say(text)
    await scene.net.agent_has_spoken()
    scene.net.drop(1000)


def agent_heard(scene: Scene) -> list[str]:
    return [text for role, text in scene.memory.texts() if role == "agent"]


@pytest.mark.parametrize("plan", ["401", "429", "hang", "empty"])
def test_a_model_that_fails_once_costs_an_apology(plan: LlmPlan) -> None:
    scene = Scene()
    scene.llm.plans = [plan]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "callee_hung_up"
    assert agent_heard(scene)[1:] == [APOLOGY, "This is answer number 2."]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plan", ["cut", "stall"])
def test_a_model_that_stops_in_the_middle_is_heard_up_to_there_and_apologises(plan: LlmPlan) -> None:
    scene = Scene()
    scene.llm.plans = [plan]
    scene.llm.answers = ["The first sentence is whole. The second one never comes to its end, sadly.", "Good."]
    result = scene.play(waits_long_for_answers)
    assert result.outcome == "callee_hung_up"
    heard = agent_heard(scene)
    assert heard[1] == "The first sentence is whole."
    assert heard[2:] == [APOLOGY, "Good."]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plan", ["401", "hang", "cut"])
def test_a_model_that_fails_twice_in_a_row_ends_the_call_with_words(plan: LlmPlan) -> None:
    scene = Scene()
    scene.llm.plans = [plan, plan]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "provider_failure"
    assert agent_heard(scene)[-1] == FAILURE_FAREWELL
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


def test_failures_that_are_not_in_a_row_do_not_end_the_call() -> None:
    scene = Scene()
    scene.llm.plans = ["429", "ok", "429", "ok"]

    async def callee(scene: Scene) -> None:
        await scene.converse("One", "Two", "Three", "Four")
        scene.net.drop(1000)

    assert scene.play(callee).outcome == "callee_hung_up"
    assert agent_heard(scene).count(APOLOGY) == 2


# The opening is the first utterance, the two prepared lines are the next ones.
@pytest.mark.parametrize("plan", ["fail", "hang"])
def test_a_synthesizer_that_fails_once_costs_the_prepared_apology(plan: TtsPlan) -> None:
    scene = Scene()
    scene.tts.plans = ["ok", "ok", "ok", plan]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "callee_hung_up"
    assert agent_heard(scene)[1:] == [APOLOGY, "This is answer number 2."]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


def test_a_synthesizer_that_stops_in_the_middle_of_a_sentence_costs_an_apology() -> None:
    scene = Scene()
    scene.tts.plans = ["ok", "ok", "ok", "stall"]
    scene.llm.answers = ["A sentence that is long enough to be cut.", "Fine."]
    result = scene.play(waits_long_for_answers)
    assert result.outcome == "callee_hung_up"
    heard = agent_heard(scene)
    assert "A sentence that is long enough to be cut.".startswith(heard[1])
    assert heard[2:] == [APOLOGY, "Fine."]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S


def test_a_synthesizer_that_stays_down_says_goodbye_with_prepared_words() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        scene.tts.down = True
        await scene.say("First question")
        await scene.net.agent_has_spoken()
        await scene.say("Second question")
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "provider_failure"
    assert agent_heard(scene)[1:] == [APOLOGY, FAILURE_FAREWELL]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plan", ["fail", "hang"])
def test_a_synthesizer_that_is_down_from_the_start_hangs_up_at_once(plan: TtsPlan) -> None:
    scene = Scene()
    scene.tts.plans = [plan] * 20
    result = scene.play()
    assert result.outcome == "provider_failure"
    assert scene.net.hang_ups == ["carrier-1"]
    assert result.duration_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plan", ["cut", "end", "refuse"])
def test_a_transcriber_that_fails_once_is_opened_again(plan: SttPlan) -> None:
    scene = Scene()
    scene.stt.plans = [plan]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Can you hear me", ms=2000)
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    result = scene.play(callee)
    assert result.outcome == "callee_hung_up"
    assert scene.stt.opened == 2
    assert ("callee", "Can you hear me") in scene.memory.texts()
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plans", [["401"], ["refuse", "refuse"], ["cut", "cut"], ["end", "refuse"]])
def test_a_transcriber_that_fails_for_good_ends_the_call_with_words(plans: list[SttPlan]) -> None:
    scene = Scene()
    scene.stt.plans = plans

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Can you hear me", ms=3000)
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "provider_failure"
    assert agent_heard(scene)[-1] == FAILURE_FAREWELL
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


def test_no_audio_is_lost_between_two_transcriber_streams() -> None:
    scene = Scene()
    scene.stt.plans = ["cut"]
    scene.stt.open_after_s = 1.0

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Can you hear me", ms=3000)
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    joined = b"".join(bytes(stream.audio) for stream in scene.stt.streams)
    assert scene.net.sent.startswith(joined)
    assert len(scene.net.sent) - len(joined) <= 5 * 320


@pytest.mark.parametrize("plan", ["silent", "lost"])
def test_a_transcriber_that_never_tells_of_a_turn_costs_an_apology(plan: SttPlan) -> None:
    scene = Scene()
    scene.stt.plans = [plan]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Nobody hears this", ms=1500)
        await scene.net.agent_has_spoken()
        await scene.say("I said hello")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    result = scene.play(callee)
    assert result.outcome == "callee_hung_up"
    assert scene.memory.texts()[1:3] == [("agent", APOLOGY), ("callee", "I said hello")]
    assert scene.stt.opened == 2
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


def test_noise_that_is_no_speech_costs_nothing() -> None:
    scene = Scene()
    scene.stt.plans = ["silent"]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        for _ in range(3):
            scene.net.noise(0.3)
            await asyncio.sleep(4)
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.stt.opened == 1
    assert agent_heard(scene)[1:] == []
