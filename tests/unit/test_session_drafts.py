"""Drafts in whole calls: one that is dropped leaves nothing behind, one that is used is the reply."""

from __future__ import annotations

import pytest

from serve_app.conversation import turn_types as t
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.scripted_llm import Answer, LlmPlan, ScriptedModel
from tests.unit.session_fixtures import OPENING, Scene, make_agent

HALF, REST = "Where can I park", "and for how long"
SECRET = "Behind seven mountains."


def answers_half(answer: Answer, then: str = "For an hour.") -> ScriptedModel:
    """To the first half alone the model says something else than to the whole."""

    def script(request: ChatRequest) -> Answer:
        return answer if request.messages[-1].content == HALF else Answer(then)

    return ScriptedModel(script=script)


async def goes_on_after_a_pause(scene: Scene, *, pause_s: float = 0.4) -> None:
    await scene.net.agent_has_spoken()
    scene.net.say(HALF, REST, word_s=0.25, pause_s=pause_s)
    await scene.net.agent_has_spoken()
    scene.net.drop(1000)


@pytest.mark.parametrize("pause_s", [0.26, 0.34, 0.4, 0.48])
@pytest.mark.parametrize("first_token_s", [0.0, 0.1, 0.5])
def test_a_dropped_draft_is_neither_heard_nor_remembered(pause_s: float, first_token_s: float) -> None:
    scene = Scene()
    scene.llm = answers_half(Answer(SECRET, first_token_s=first_token_s))
    result = scene.play(lambda scene: goes_on_after_a_pause(scene, pause_s=pause_s))
    assert result.outcome == "callee_hung_up"
    drafts = [command for _, command in scene.commands(t.StartDraft)]
    dropped = [command for _, command in scene.commands(t.DropDraft)]
    assert len(drafts) == 2 and dropped == [t.DropDraft(1)]
    assert scene.memory.texts() == [("agent", OPENING), ("callee", f"{HALF} {REST}"), ("agent", "For an hour.")]
    assert not {heard.word.text for heard in scene.net.heard} & set(SECRET.split())
    assert not any(SECRET[:6] in message.content for r in scene.llm.requests for message in r.messages)
    assert not any(SECRET[:6] in str(event) for event in scene.memory.events)
    assert [request.messages[-1].content for request in scene.llm.requests] == [HALF, f"{HALF} {REST}"]
    assert scene.commands(t.NoteCause) == []
    assert scene.nothing_is_left()


@pytest.mark.parametrize(
    ("tool", "arguments"), [("opt_out", {"reason": "x"}), ("end_call", {}), ("switch_language", {"language": "es"})]
)
def test_a_tool_that_a_dropped_draft_calls_is_not_carried_out(tool: str, arguments: dict[str, object]) -> None:
    scene = Scene(agent=make_agent(languages={"es": {}}))
    scene.llm = answers_half(Answer(tool=tool, arguments=arguments, first_token_s=0.0))
    result = scene.play(goes_on_after_a_pause)
    assert result.outcome == "callee_hung_up"
    assert len(scene.llm.requests) == 2
    assert not any(isinstance(event, t.ToolCalled) for _, event, _ in scene.record.turns)
    assert scene.memory.opt_outs == []
    assert scene.commands(t.SwitchLanguage) == []
    assert not any(message.tool_calls for message in scene.llm.requests[-1].messages)
    assert scene.agent_heard() == [OPENING, "For an hour."]


def test_a_draft_that_is_used_is_the_only_request_and_is_heard_sooner() -> None:
    began: dict[bool, float] = {}
    for eager in (True, False):
        scene = Scene()
        scene.stt.tells_eager = eager
        result = scene.play(lambda scene: scene.converse("Hi there", "And when is it, ok bye"))
        assert result.outcome == "completed"
        assert len(scene.llm.requests) == 2
        assert [utterance.latency.speculative for utterance in scene.utterances[1:3]] == [eager, eager]
        assert scene.memory.texts()[:3] == [
            ("agent", OPENING),
            ("callee", "Hi there"),
            ("agent", "This is answer number 1."),
        ]
        # What the model is shown of the talk does not depend on who made the request.
        assert [m.content for m in scene.llm.requests[1].messages[1:]] == [
            OPENING,
            "Hi there",
            "This is answer number 1.",
            "And when is it, ok bye",
        ]
        began[eager] = scene.utterances[1].began - scene.turn_ends()[0]
    assert began[True] == pytest.approx(began[False] - 0.25, abs=0.05)


@pytest.mark.parametrize("plan", ["401", "429", "500"])
def test_a_draft_that_fails_costs_nothing(plan: LlmPlan) -> None:
    scene = Scene()
    scene.llm.plans = [plan]

    async def callee(scene: Scene) -> None:
        await scene.converse("Hi there")
        scene.net.drop(1000)

    assert scene.play(callee).outcome == "callee_hung_up"
    # The model is asked again once the turn is over.
    assert scene.agent_heard() == [OPENING, "This is answer number 2."]
    assert not scene.utterances[-1].latency.speculative
    assert scene.record.causes == []
    assert scene.nothing_is_left()


def test_after_a_failed_draft_the_second_model_is_asked() -> None:
    scene = Scene()
    scene.llm.plans = ["500"]
    scene.second_llm = ScriptedModel(answers=["From the second one."], name="second")

    async def callee(scene: Scene) -> None:
        await scene.converse("Hi there")
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.agent_heard() == [OPENING, "From the second one."]
    assert scene.record.causes == [], "nobody waited for the first one"
    assert scene.nothing_is_left()


@pytest.mark.parametrize("policy", [True, False])
def test_an_agent_that_does_not_speculate_makes_no_drafts(policy: bool) -> None:
    scene = Scene(agent=make_agent(policies={"speculate": policy}))
    scene.play(goes_on_after_a_pause)
    assert len(scene.commands(t.StartDraft)) == (2 if policy else 0)
    assert len(scene.llm.requests) == (2 if policy else 1)
