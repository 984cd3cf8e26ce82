"""Interruptions in whole calls: what is cut, what is held and resumed, and that nothing old is heard afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.conversation import turn_types as t
from serve_app.scenarios.scripted_llm import Answer
from tests.unit.session_fixtures import CHAR_S, Scene, make_agent

LONG = "Alpha bravo charlie. Delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa."
REPLY_S = (len(LONG) + 1) * CHAR_S
AT_FIRST_SOUND = {"policies": {"interruption": {"min_words": 0}}}
"""Any sound silences the agent at once; without words it goes on."""
RESUME_AFTER_S = 1.5


def long_answers(**changes: object) -> Scene:
    scene = Scene(agent=make_agent(**changes))
    scene.prepare_lines()
    scene.llm.answers = [LONG, "Fine."]
    return scene


async def reply_has_sounded(scene: Scene, seconds: float) -> None:
    await scene.net.agent_has_spoken()
    await scene.say("Tell me")
    before = scene.net.heard_frames
    await scene.net.until(lambda: scene.net.heard_frames > before)
    await asyncio.sleep(seconds)


async def hears_it_out(scene: Scene) -> None:
    await scene.net.agent_has_spoken(quiet_s=2)
    scene.net.drop(1000)


def letters_heard_after(scene: Scene, at: float) -> set[str]:
    """Words of the long reply that made a sound from then on."""
    words = set(LONG.replace(".", "").split())
    return {h.word.text.strip(".") for h in scene.net.heard if h.began_at > at} & words


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 0.4, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("min_words", [0, 2])
def test_nothing_of_a_reply_is_heard_after_it_was_cleared(after_s: float, min_words: int) -> None:
    """At any moment, also while its audio is still being made."""
    scene = long_answers(policies={"interruption": {"min_words": min_words}})
    scene.llm.token_s = 0.06
    cleared: list[float] = []
    left_open: list[int] = []

    def look(event: t.TurnEvent, commands: Sequence[t.TurnCommand]) -> None:
        if any(isinstance(command, t.ClearPlayout) for command in commands):
            loop = asyncio.get_running_loop()
            loop.call_later(0.001, lambda: left_open.append(scene.llm.streams_open + scene.tts.utterances_open))

    async def callee(scene: Scene) -> None:
        scene.record.watchers.append(look)
        await reply_has_sounded(scene, after_s)
        await scene.say("What about tomorrow", ms=900)
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    cleared += [at + scene.net.opened_at for at, _ in scene.commands(t.ClearPlayout)]
    assert len(cleared) == 1
    assert left_open == [0], "the model's stream and the synthesizer's context are closed at once"
    assert letters_heard_after(scene, cleared[0] + 0.03) == set()
    # A clear on the wire for the hold, if there was one, and none again for what was silent already.
    assert scene.net.clears == 1
    cut = scene.utterances[1]
    assert cut.interrupted and LONG.startswith(cut.heard_text)
    assert scene.agent_heard()[-1] == "Fine."
    last = scene.llm.requests[-1].messages
    said = [message.content for message in last if message.role == "assistant"]
    assert said[1:] == ([cut.heard_text] if cut.heard_text else [])
    assert scene.nothing_is_left()


def test_a_word_that_only_listens_stops_nothing_and_wants_no_answer() -> None:
    scene = long_answers()

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, 1.0)
        for text in ("mhm", "okay", "yeah right"):
            await scene.say(text, ms=500)
            await asyncio.sleep(0.8)
        await hears_it_out(scene)

    scene.play(callee)
    assert scene.net.clears == 0
    assert scene.agent_heard()[1:] == [LONG]
    assert len(scene.llm.requests) == 1
    assert [text for role, text in scene.memory.texts() if role == "callee"][1:] == ["mhm", "okay", "yeah right"]


# --- sounds without words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0, 3.0])
def test_after_a_sound_without_words_the_agent_goes_on_with_the_word_where_it_stopped(after_s: float) -> None:
    scene = long_answers(**AT_FIRST_SOUND)
    # What is left to say is longer than any deadline of the ladder.
    scene.llm.answers = [f"{LONG} {LONG} {LONG}", "Fine."]

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, after_s)
        scene.net.noise(0.4)
        await hears_it_out(scene)

    result = scene.play(callee)
    assert result.outcome == "callee_hung_up"
    ((held_at, _),) = scene.commands(t.HoldPlayout)
    ((released_at, _),) = scene.commands(t.ResumePlayout)
    # A turn that ends without words ends the wait for them.
    assert 0.4 <= released_at - held_at <= RESUME_AFTER_S + 0.05
    after = [event for at, event, _ in scene.record.turns if at >= released_at]
    assert t.PlayoutStarted(3) in after, "the machine learns that the callee hears something again"
    assert scene.commands(t.FailOver, t.NoteCause, t.ClearPlayout) == []
    assert [utterance.line for utterance in scene.utterances] == ["opening", "reply"]
    assert scene.agent_heard()[1] == scene.llm.answers[0]
    whole = [h.word.text for h in scene.net.heard if h.whole and h.began_at > scene.stt.turn_ends[0]]
    again = len(whole) - len(scene.llm.answers[0].split())
    assert again in (0, 1), "at most the word that was cut is heard twice"
    assert not scene.utterances[1].interrupted
    assert scene.net.silence.longest_s <= RESUME_AFTER_S + 0.1
    assert scene.nothing_is_left()


@pytest.mark.parametrize("end_s", [0.5, 5.0])
def test_a_sound_that_becomes_words_cuts_where_the_agent_fell_silent(end_s: float) -> None:
    scene = long_answers(**AT_FIRST_SOUND)

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, 2.0)
        scene.net.noise(0.3)
        await asyncio.sleep(0.3)
        await scene.say("Another question please", ms=900)
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.stt.end_s = end_s
    scene.play(callee)
    ((held_at, _),) = scene.commands(t.HoldPlayout)
    cut = scene.utterances[1]
    assert cut.interrupted
    assert cut.ended <= held_at + 0.05
    # 60 ms a character, one word more or less.
    assert abs(len(cut.heard_text) * CHAR_S - (cut.ended - cut.began)) <= 0.7
    assert letters_heard_after(scene, held_at + scene.net.opened_at + 0.03) == set()
    assert scene.commands(t.ResumePlayout) == []
    assert scene.agent_heard()[-1] == "Fine."


@pytest.mark.parametrize("before_end_ms", range(-60, 80, 10))
def test_a_sound_at_the_very_end_of_a_reply_costs_nothing(before_end_ms: int) -> None:
    """The news of the end and the hold may cross: then there is nothing to hold, and nothing is waited for."""
    scene = long_answers(**AT_FIRST_SOUND)

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, REPLY_S - before_end_ms / 1000)
        scene.net.noise(0.3)
        await asyncio.sleep(7)
        await scene.say("Thank you")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    result = scene.play(callee)
    assert result.outcome == "callee_hung_up"
    assert scene.agent_heard()[1:] == [LONG, "Fine."]
    assert scene.record.causes == []
    assert scene.nothing_is_left()


def test_a_reply_that_fails_while_it_is_held_is_apologised_for() -> None:
    scene = long_answers(**AT_FIRST_SOUND)
    scene.llm.plans, scene.llm.token_s = ["cut"], 0.3
    scene.llm.answers = ["Alpha bravo charlie delta. " + "Echo foxtrot golf hotel. " * 3, "Fine."]

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, 0.2)
        scene.net.noise(0.7)
        await scene.net.agent_has_spoken(quiet_s=3)
        await scene.say("Again")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    result = scene.play(callee)
    assert result.outcome == "callee_hung_up"
    (held_at, _), *_ = scene.commands(t.HoldPlayout)
    ((failed_at, _),) = [(at, event) for at, event, _ in scene.record.turns if isinstance(event, t.ReplyFailed)]
    assert held_at < failed_at < held_at + RESUME_AFTER_S
    assert all(at > failed_at for at, _ in scene.commands(t.ResumePlayout))
    assert [utterance.line for utterance in scene.utterances][-3:] == ["reply", "apology", "reply"]
    assert scene.agent_heard()[-2:] == [make_agent().line("apology"), "Fine."]
    assert not scene.utterances[-2].interrupted
    assert scene.nothing_is_left()


def test_an_opt_out_that_the_model_tells_while_the_agent_is_held_is_obeyed() -> None:
    scene = long_answers(**AT_FIRST_SOUND)
    scene.llm.script = lambda request: Answer(
        "Alpha bravo. Charlie delta echo.", tool="opt_out", arguments={"reason": "r"}
    )
    scene.llm.token_s = 0.4

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, 0.2)
        scene.net.noise(0.7)
        await asyncio.sleep(60)

    result = scene.play(callee)
    ((held_at, _),) = scene.commands(t.HoldPlayout)
    ((called_at, _),) = [(at, event) for at, event, _ in scene.record.turns if isinstance(event, t.ToolCalled)]
    assert held_at < called_at < held_at + RESUME_AFTER_S and scene.commands(t.ResumePlayout) == []
    assert result.outcome == "opted_out"
    assert scene.memory.opt_outs == [("model", "r")]
    assert scene.utterances[-1].line == "opted_out" and not scene.utterances[-1].interrupted


# --- interruptions of what has fallen silent by itself ---------------------------------------------------------------


def test_a_reply_that_stalled_and_was_interrupted_leaves_no_hung_connection_to_the_next() -> None:
    """The deadline of the connection never comes if the callee is quicker, again and again."""

    async def callee(scene: Scene) -> None:
        await reply_has_sounded(scene, 1.6)
        await scene.say("Are you still with me")
        await hears_it_out(scene)

    opened = []
    for plan in ("ok", "stall"):
        scene = long_answers()
        scene.tts.plans = [plan]
        scene.play(callee)
        assert scene.tts.connections_open == 0
        assert any(turn.heard_text == "Fine." for turn in scene.memory.turns if turn.role == "agent")
        opened.append(len(scene.tts.requests))
    assert opened[1] == opened[0] + 1
