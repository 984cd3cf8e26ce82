"""Whole calls at their limits and in other languages, and the promise about silence under any faults."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.conversation import turn_types as t
from serve_app.conversation.lease import CallResult
from serve_app.scenarios.scripted_llm import LlmPlan, ScriptedModel
from serve_app.scenarios.scripted_stt import ScriptedStream, SttPlan
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer, TtsPlan
from tests.unit.session_fixtures import OPENING, Scene, make_agent

WARNING = make_agent().line("duration_warning")
FAREWELL = make_agent().line("farewell")

# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("speaker", ["nobody", "agent", "callee"])
def test_the_end_of_the_time_is_announced_over_nobody(speaker: str) -> None:
    """Due at 10 s: at once if nobody speaks, else when the agent, or its answer to the callee, is through."""
    limits = {"max_duration_s": 40, "duration_warning_s": 30, "silence_timeout_s": 60}
    scene = Scene(agent=make_agent(limits=limits))
    scene.prepare_lines()
    scene.llm.answers = ["word " * 20 + "end."]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        if speaker == "nobody":
            await asyncio.sleep(100)
        elif speaker == "agent":
            await asyncio.sleep(4)
            await scene.say("Tell me all of it")
        else:
            await asyncio.sleep(6)
            await scene.say("This is a long question that takes its time", ms=4000)
        await asyncio.sleep(100)

    result = scene.play(callee)
    assert result.outcome == "max_duration"
    answered = ["reply"] if speaker != "nobody" else []
    lines = [utterance.line for utterance in scene.utterances]
    assert lines == ["opening", *answered, "duration_warning", "farewell"]
    warning = scene.utterances[-2]
    assert warning.heard_text == WARNING
    assert scene.net.clears == 0 and not any(utterance.interrupted for utterance in scene.utterances)
    due_s = 10.0 if speaker == "nobody" else scene.utterances[1].ended
    assert warning.began == pytest.approx(due_s, abs=0.1) and warning.began >= 10
    assert scene.utterances[-1].began == pytest.approx(40, abs=0.1)


def test_an_answer_begins_the_count_of_prompts_anew() -> None:
    scene = Scene(agent=make_agent(limits={"silence_timeout_s": 4, "silence_prompts": 1}))
    scene.prepare_lines()

    async def callee(scene: Scene) -> None:
        # Each time after the question whether somebody is there.
        for text in ("I am here", "Still here"):
            await scene.net.agent_has_spoken(quiet_s=1)
            await scene.net.agent_has_spoken(quiet_s=1)
            await scene.say(text)
        await asyncio.sleep(100)

    result = scene.play(callee)
    assert result.outcome == "silence"
    assert [utterance.line for utterance in scene.utterances] == [
        "opening",
        "still_there",
        "reply",
        "still_there",
        "reply",
        "still_there",
        "farewell",
    ]


# --- languages --------------------------------------------------------------------------------------------------------


def test_after_a_switch_everything_is_in_the_new_language(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(ScriptedStream, "configure", lambda self, language: told.append(language))
    agent = make_agent(
        languages={"es": {"voice": "lucia"}}, limits={"silence_timeout_s": 6}, policies={"speculate": False}
    )
    scene = Scene(agent=agent)
    scene.llm.answers = ["Claro que sí.", "Hasta luego."]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("En español por favor")
        await scene.net.agent_has_spoken()
        await scene.net.agent_has_spoken()
        await scene.say("Deje de llamarme ya no me llame más")
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert told == ["es"]
    assert "Spanish" in scene.llm.requests[-1].messages[0].content
    assert "English" not in scene.llm.requests[-1].messages[0].content
    said = [(utterance.line, utterance.language, utterance.text) for utterance in scene.utterances]
    assert said == [
        ("opening", "en", OPENING),
        ("reply", "es", "Claro que sí."),
        ("still_there", "es", agent.line("still_there", "es")),
        ("opted_out", "es", agent.line("opted_out", "es")),
    ]
    assert result.outcome == "opted_out"
    assert {(request.voice, request.language) for request in scene.tts.requests} == {(None, "en"), ("lucia", "es")}
    assert scene.nothing_is_left()


# --- silence ----------------------------------------------------------------------------------------------------------


@dataclass
class Faults:
    """What becomes of the providers of a call, request by request."""

    llm: list[LlmPlan]
    second_llm: list[LlmPlan] | None
    tts: list[TtsPlan]
    second_tts: list[TtsPlan] | None
    stt: list[SttPlan]
    eager: bool
    prepared: bool
    confirms: bool


llm_plans = st.lists(
    st.sampled_from(["ok", "ok", "401", "429", "hang", "half_open", "slow_drip", "stall", "cut", "empty"]), max_size=5
)
tts_plans = st.lists(
    st.sampled_from(
        ["ok", "ok", "429", "fail", "hang", "half_open", "silent", "slow_drip", "stall", "cut", "endless", "no_end"]
    ),
    max_size=6,
)
faults = st.builds(
    Faults,
    llm=llm_plans,
    second_llm=st.none() | llm_plans,
    tts=tts_plans,
    second_tts=st.none() | tts_plans,
    stt=st.lists(st.sampled_from(["ok", "ok", "ok", "cut", "end", "silent", "lost", "refuse", "401"]), max_size=3),
    eager=st.booleans(),
    prepared=st.booleans(),
    confirms=st.booleans(),
)


def play_with(plan: Faults) -> tuple[Scene, CallResult]:
    scene = Scene(confirms=plan.confirms)
    if plan.prepared:
        scene.prepare_lines()
    scene.stt.tells_eager, scene.stt.plans = plan.eager, list(plan.stt)
    scene.llm.plans, scene.tts.plans = list(plan.llm), list(plan.tts)
    if plan.second_llm is not None:
        scene.second_llm = ScriptedModel(plans=list(plan.second_llm), name="second")
    if plan.second_tts is not None:
        scene.second_tts = ScriptedSynthesizer(scene.words, plans=list(plan.second_tts), name="second")

    async def callee(scene: Scene) -> None:
        for text in ("First question about it", "Stop, another one", "Thank you, and the third?", "Good bye"):
            await scene.net.agent_has_spoken(quiet_s=1.6, within_s=200)
            await scene.say(text, ms=1500)
        await asyncio.sleep(100)
        scene.net.drop(1000)

    return scene, scene.play(callee, limit_s=400)


ENDS = {"completed", "provider_failure", "silence", "callee_hung_up"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(faults)
def test_whatever_fails_the_call_ends_well_and_no_long_silence_is_without_a_cause(plan: Faults) -> None:
    """`Scene.play` judges the silences, and holds the transcript to what was heard."""
    scene, result = play_with(plan)
    assert result.outcome in ENDS, result
    assert scene.net.silence.longest_s <= 7.5, "beyond the ladder"
    spoken = [utterance.line for utterance in scene.utterances]
    if result.outcome == "provider_failure":
        assert scene.record.causes != []
        assert not plan.prepared or spoken[-1] == "failure_farewell", "in words, if there are any"
    opening = next((utterance for utterance in scene.utterances if utterance.line == "opening"), None)
    whole = opening is not None and not opening.interrupted
    assert whole or result.outcome == "provider_failure", "a call without its opening does not go on"
    assert len(scene.commands(t.HangUp)) == 1
    assert scene.memory.results == [result]
    assert scene.nothing_is_left()
