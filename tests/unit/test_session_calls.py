"""Whole calls on virtual time: what the callee hears, what is stored, what is left."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serve_app.audio.mix import PartPlace, mix_parts
from serve_app.conversation.playout import BURST_FRAMES
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.scripted_llm import Answer
from tests.unit.session_fixtures import CHAR_S, FRAME, OPENING, RATE, Memory, Scene, make_agent, now

FAREWELL = "Thank you for your time. Goodbye."


def four_turns() -> Scene:
    scene = Scene()
    scene.llm.answers = ["I can hear you.", "It is at ten.", "Parking is free.", "You are welcome. Goodbye."]
    return scene


async def polite_callee(scene: Scene) -> None:
    await scene.converse("Hi there", "When is it", "Where can I park", "Thanks, goodbye!")


def test_a_call_of_four_turns_is_spoken_stored_and_closed() -> None:
    scene = four_turns()
    result = scene.play(polite_callee)
    assert result.outcome == "completed"
    assert scene.memory.texts() == [
        ("agent", OPENING),
        ("callee", "Hi there"),
        ("agent", "I can hear you."),
        ("callee", "When is it"),
        ("agent", "It is at ten."),
        ("callee", "Where can I park"),
        ("agent", "Parking is free."),
        ("callee", "Thanks, goodbye!"),
        ("agent", "You are welcome. Goodbye."),
    ]
    assert not any(turn.interrupted for turn in scene.memory.turns)
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.memory.results == [result]
    assert scene.nothing_is_left()
    assert scene.net.largest_send <= BURST_FRAMES


def test_every_callee_frame_reaches_the_transcriber_unmodified_and_in_order() -> None:
    scene = four_turns()
    scene.stt.open_after_s = 2.0
    scene.play(polite_callee)
    (stream,) = scene.stt.streams
    assert scene.net.sent.startswith(bytes(stream.audio))
    # Only what came while the call was being closed is not sent.
    assert (len(scene.net.sent) - len(stream.audio)) // FRAME <= 5


@pytest.mark.parametrize("drafted", [True, False])
def test_latencies_are_measured_on_every_reply(drafted: bool) -> None:
    scene = four_turns()
    scene.stt.tells_eager = drafted
    scene.play(polite_callee)
    opening, *replies = [turn for turn in scene.memory.turns if turn.role == "agent"]
    assert opening.latency.total_ms is None
    # Nobody had prepared it: 50 ms for the connection, 100 ms for the first sound.
    assert opening.latency.tts_ms == pytest.approx(150, abs=5)
    assert len(replies) == 4
    for turn in replies:
        latency = turn.latency
        assert latency.stt_ms == pytest.approx(500, abs=25)
        # A draft begins 250 ms before the end of the turn, and its first token takes 200 ms.
        assert latency.llm_ms == pytest.approx(0 if drafted else 200, abs=5)
        assert latency.tts_ms == pytest.approx(100, abs=5)
        assert latency.frame_ms == pytest.approx(0, abs=5)
        assert latency.total_ms is not None
        assert 600 <= latency.total_ms - (0 if drafted else 200) <= 750
        stages = (latency.stt_ms, latency.llm_ms, latency.sentence_ms, latency.tts_ms, latency.frame_ms)
        assert latency.total_ms == pytest.approx(sum(stage or 0 for stage in stages), abs=0.01)
        assert (latency.speculative, latency.causes) == (drafted, ())
        assert latency.within_target is False and latency.over["total_ms"] == ("target" if drafted else "limit")


def test_a_prepared_opening_leaves_with_the_first_frame_of_the_media() -> None:
    scene = four_turns()
    scene.prepare_lines()
    scene.play(polite_callee)
    opening = scene.memory.turns[0]
    assert opening.text == OPENING
    assert opening.started_ms <= 20
    assert opening.latency.tts_ms == 0


def test_turn_times_follow_the_calls_clock() -> None:
    scene = four_turns()
    result = scene.play(polite_callee)
    starts = [turn.started_ms for turn in scene.memory.turns]
    assert starts == sorted(starts)
    opening = scene.memory.turns[0]
    assert opening.ended_ms - opening.started_ms == pytest.approx((len(OPENING) + 1) * CHAR_S * 1000, abs=25)
    assert scene.memory.turns[-1].ended_ms <= result.duration_s * 1000


def test_the_recording_has_both_sides_where_they_were_heard() -> None:
    scene = four_turns()
    result = scene.play(polite_callee)
    timeline = mix_parts(scene.memory.parts.items(), RATE, result.duration_s)
    assert abs(len(timeline) / RATE - result.duration_s) <= 0.04
    loud = timeline != 0
    assert np.count_nonzero(loud[:, 1]) * 2 == pytest.approx(scene.net.heard_frames * FRAME, abs=10 * FRAME)
    for turn in scene.memory.turns:
        channel = 0 if turn.role == "callee" else 1
        start, end = int(turn.started_ms * RATE / 1000), int(turn.ended_ms * RATE / 1000)
        middle = loud[start + 400 : end - 400]
        assert middle[:, channel].mean() > 0.9
        assert middle[:, 1 - channel].mean() < 0.01
    lengths = [len(data) / 2 / RATE for data in scene.memory.parts.values()]
    assert max(lengths) <= 5
    assert {PartPlace.parse(key).direction for key in scene.memory.parts} == {"callee", "agent"}


@pytest.mark.parametrize("confirms", [True, False])
def test_a_barge_in_stops_the_agent_and_only_what_was_heard_was_said(confirms: bool) -> None:
    scene = Scene(confirms=confirms)
    scene.llm.answers = ["One two three four five six seven eight nine ten eleven twelve. And more.", "Fine."]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Tell me")
        before = scene.net.heard_frames
        await scene.net.until(lambda: scene.net.heard_frames >= before + 100)
        await scene.say("Stop please", ms=600)
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    roles = [turn.role for turn in scene.memory.turns]
    assert roles == ["agent", "callee", "agent", "callee", "agent"]
    cut = scene.memory.turns[2]
    assert cut.interrupted
    assert cut.text.startswith(cut.heard_text)
    # About 2 s were heard, at 60 ms a character; one word more or less.
    words = cut.text.split()
    heard_words = len(cut.heard_text.split())
    spoken_s = [sum(len(w) + 1 for w in words[: n + 1]) * CHAR_S for n in range(len(words))]
    truth = sum(1 for end in spoken_s if end <= 2.1)
    assert abs(heard_words - truth) <= 1
    assert scene.net.clears == 1
    last = scene.llm.requests[-1].messages
    assert [m.content for m in last if m.role == "assistant"] == [OPENING, cut.heard_text]
    assert last[-1].content == "Stop please"
    assert scene.nothing_is_left()


def test_the_agent_falls_silent_within_a_frame_of_the_barge_in() -> None:
    scene = Scene(agent=make_agent(policies={"opening_interruptible": True}))

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 20)
        began = now()
        await scene.say("Wait", ms=400)
        assert scene.net.quiet_since - began <= 0.1
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    opening = scene.memory.turns[0]
    assert opening.interrupted
    assert OPENING.startswith(opening.heard_text)
    assert scene.net.clears == 1
    assert scene.llm.requests[0].messages[-1].content == "Wait"


def test_what_the_law_wants_said_is_said_to_its_end_and_then_the_callee_is_answered() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 20)
        await scene.say("Wait a moment please", ms=800)
        await scene.net.agent_has_spoken()
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.net.clears == 0
    assert scene.agent_heard() == [OPENING, "This is answer number 1."]
    assert not any(turn.interrupted for turn in scene.memory.turns)
    assert scene.llm.requests[0].messages[-1].content == "Wait a moment please"


def test_a_barge_in_while_the_model_thinks_leaves_no_agent_turn() -> None:
    scene = Scene()
    scene.llm.plans = ["hang"]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("First part")
        await asyncio.sleep(1)
        await scene.say("second part")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    assert [role for role, _ in scene.memory.texts()] == ["agent", "callee", "callee", "agent"]
    assert scene.llm.requests[-1].messages[-1].content == "First part second part"
    assert scene.net.clears == 0
    assert scene.llm.streams_open == 0


def test_an_agent_that_may_not_be_interrupted_finishes_and_then_answers() -> None:
    scene = Scene(agent=make_agent(policies={"interruptible": False}))

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 20)
        await scene.say("Hello hello", ms=400)
        await scene.net.agent_has_spoken()
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.net.clears == 0
    assert scene.memory.texts()[0] == ("agent", OPENING)
    assert scene.llm.requests[0].messages[-1].content == "Hello hello"


@pytest.mark.parametrize(
    ("tool", "stored"), [("transfer the call!", []), ("switch_language", ["switch_language"])], ids=["none", "refused"]
)
def test_a_tool_alone_that_does_nothing_is_followed_by_words(tool: str, stored: list[str]) -> None:
    """A name that the model made up goes into no later request: some providers refuse it for one."""
    scene = Scene()

    def answer(request: ChatRequest) -> Answer:
        told = request.messages[-1].role == "system"
        return Answer("I cannot do that.") if told else Answer(tool=tool, arguments={"language": ["es"]})

    scene.llm.script = answer

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Put me through to a person")
        await scene.net.agent_has_spoken()
        scene.llm.script = lambda request: Answer("Of course.")
        await scene.say("Then tell them")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.agent_heard() == [OPENING, "I cannot do that.", "Of course."]
    asked_again, last = scene.llm.requests[-2:]
    assert "no words" in asked_again.messages[-1].content
    assert [message.role for message in last.messages].count("system") == 1, "told once, and not kept"
    assert [call.name for message in last.messages for call in message.tool_calls] == stored


def test_uncertain_text_is_marked_approximate() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("mumble", confidence=0.3)
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    scene.play(callee)
    assert [turn.approximate for turn in scene.memory.turns] == [False, True, False]


def test_a_goodbye_without_one_in_the_reply_is_followed_by_the_farewell() -> None:
    scene = Scene()
    scene.llm.answers = ["All is set."]
    result = scene.play(lambda scene: scene.converse("ok bye"))
    assert result.outcome == "completed"
    assert scene.memory.texts()[-2:] == [("agent", "All is set."), ("agent", FAREWELL)]


@pytest.mark.parametrize("prompts", [0, 1, 2])
def test_a_silent_callee_is_asked_and_then_bid_farewell(prompts: int) -> None:
    scene = Scene(agent=make_agent(limits={"silence_timeout_s": 8, "silence_prompts": prompts}))
    result = scene.play()
    assert result.outcome == "silence"
    asked = [("agent", "Are you still there?")] * prompts
    assert scene.memory.texts() == [("agent", OPENING), *asked, ("agent", FAREWELL)]
    # The time runs from the end of the agent's speech, each time anew.
    for before, after in zip(scene.memory.turns, scene.memory.turns[1:], strict=False):
        assert 8000 <= after.started_ms - before.ended_ms <= 8200
    assert result.duration_s == pytest.approx(scene.memory.turns[-1].ended_ms / 1000, abs=0.2)
    assert scene.llm.requests == []


def test_the_first_farewell_comes_after_two_prompts_unless_the_agent_says_otherwise() -> None:
    scene = Scene()
    assert scene.play().outcome == "silence"
    assert [utterance.line for utterance in scene.utterances] == ["opening", "still_there", "still_there", "farewell"]


def test_the_longest_duration_ends_the_call_politely() -> None:
    scene = Scene(agent=make_agent(limits={"max_duration_s": 12}))
    scene.llm.answers = ["word " * 100]
    result = scene.play(lambda scene: scene.converse("Tell me all"))
    assert result.outcome == "max_duration"
    assert scene.memory.texts()[-1] == ("agent", FAREWELL)
    assert 12 < result.duration_s < 18


def test_the_last_turn_is_answered_with_the_farewell() -> None:
    scene = Scene(agent=make_agent(limits={"max_turns": 1}))
    result = scene.play(lambda scene: scene.converse("One", "Two"))
    assert result.outcome == "max_turns"
    # Not even a draft is made of an answer that nobody will hear.
    assert len(scene.llm.requests) == 1
    assert scene.memory.texts()[-1] == ("agent", FAREWELL)


def test_a_command_hangs_up_at_once_and_unknown_commands_change_nothing() -> None:
    scene = Scene()
    answers: list[dict[str, object]] = []

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 40)
        answers.append(await scene.session.command({"type": "dance"}))
        answers.append(await scene.session.command({"type": "hangup", "reason": "supervisor"}))

    result = scene.play(callee)
    assert (result.outcome, result.detail) == ("agent_hung_up", "supervisor")
    assert [answer["ok"] for answer in answers] == [False, True]
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.memory.turns[0].interrupted
    assert scene.nothing_is_left()


def test_a_superseded_session_leaves_the_call_to_the_newer_one() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 40)
        await scene.session.command({"type": "superseded"})

    scene.play(callee)
    assert scene.net.hang_ups == []
    assert scene.memory.results == []
    assert scene.nothing_is_left()


@pytest.mark.parametrize(
    ("code", "outcome", "hang_ups"), [(1000, "callee_hung_up", []), (1006, "media_failure", ["carrier-1"])]
)
def test_a_socket_that_drops_in_the_middle_of_a_turn_ends_the_call(
    code: int, outcome: str, hang_ups: list[str]
) -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Hello")
        before = scene.net.heard_frames
        await scene.net.until(lambda: scene.net.heard_frames > before + 20)
        scene.net.drop(code)

    result = scene.play(callee)
    assert result.outcome == outcome
    assert scene.net.hang_ups == hang_ups
    assert scene.memory.turns[-1].interrupted
    assert scene.memory.results == [result]
    assert scene.nothing_is_left()


def test_a_network_that_never_connects_ends_the_call() -> None:
    scene = Scene(connects=False)
    result = scene.play()
    assert (result.outcome, result.duration_s) == ("media_failure", 0.0)
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.memory.results == [result]
    assert scene.nothing_is_left()


def test_stores_that_are_down_never_stop_the_talk() -> None:
    scene = four_turns()
    scene.memory = Memory(broken=True)
    result = scene.play(polite_callee)
    assert result.outcome == "completed"
    assert len(scene.llm.requests) == 4
    assert scene.nothing_is_left()


def test_a_cancelled_session_ends_the_call_and_writes_its_result() -> None:
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.until(lambda: scene.net.heard_frames > 40)
        scene.running.cancel()

    with pytest.raises(asyncio.CancelledError):
        scene.play(callee)
    assert [r.outcome for r in scene.memory.results] == ["session_lost"]
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.memory.turns[0].interrupted
    assert scene.memory.parts
    assert scene.nothing_is_left()


def test_watchers_see_the_call_as_it_happens() -> None:
    scene = four_turns()
    scene.play(polite_callee)
    kinds = {str(event["type"]) for event in scene.memory.events}
    assert kinds >= {"turn", "partial", "state", "latency", "agent_text", "speech_started", "ended"}
    states = [event["state"] for event in scene.memory.events if event["type"] == "state"]
    assert states[:4] == ["speaking", "listening", "thinking", "speaking"]
