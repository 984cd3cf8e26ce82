"""Providers that fail: what the callee hears, and when. Every silence over 3 s has a cause (`Scene.play`)."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.lines import LineCache
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.scripted_llm import Answer, ScriptedModel
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer
from tests.unit.session_fixtures import LlmPlan, Scene, SttPlan, TtsPlan, make_agent

APOLOGY = make_agent().line("apology")
FAILURE_FAREWELL = make_agent().line("failure_farewell")
STILL_THERE = make_agent().line("still_there")
FILLERS = list(make_agent().fillers())
# The deadline ladder's defaults, and a frame or two.
FILLER_S, FAILOVER_S, GIVE_UP_S, SOON_S = 1.2, 2.5, 6.0, 0.1
LONGEST_SILENCE_S = 3.0


def fault_scene() -> Scene:
    """Lines are prepared, and the faults meet replies: drafts have their own tests."""
    scene = Scene(agent=make_agent(policies={"speculate": False}))
    scene.prepare_lines()
    return scene


async def hangs_up_after_two(scene: Scene) -> None:
    """Listens until the agent has nothing to say any more: a filler is no answer."""
    for text in ("First question", "Second question"):
        await scene.net.agent_has_spoken(quiet_s=2.0)
        await scene.say(text)
    await scene.net.agent_has_spoken()
    scene.net.drop(1000)


async def waits_long_for_answers(scene: Scene) -> None:
    """A pause in the middle of an answer is not taken for its end."""
    for text in ("First question", "Second question"):
        await scene.net.agent_has_spoken(quiet_s=6.5)
        await scene.say(text)
    await scene.net.agent_has_spoken()
    scene.net.drop(1000)


# --- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["401", "429", "500", "empty", "half_open"])
def test_a_model_that_fails_once_costs_an_apology(plan: LlmPlan) -> None:
    scene = fault_scene()
    scene.llm.plans = [plan]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "callee_hung_up"
    # A dead connection is known to be dead after 4 s, the callee waits with fillers.
    fillers = FILLERS if plan == "half_open" else []
    assert scene.agent_heard()[1:] == [*fillers, APOLOGY, "This is answer number 2."]
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    apology, answer = scene.utterances[-2:]
    assert apology.latency.causes == (("llm_late", "llm_failed") if fillers else ("llm_failed",))
    # To the first frame on the wire, which may wait for the end of a filler there.
    waited_ms = (apology.began - scene.turn_ends()[0] + 0.5) * 1000
    assert apology.latency.total_ms is not None
    assert -40 <= waited_ms - apology.latency.total_ms <= (400 if fillers else 40)
    assert answer.latency.causes == ()
    assert scene.nothing_is_left()


@pytest.mark.parametrize("drafted", [True, False])
def test_a_hung_first_token_is_bridged_announced_and_given_up(drafted: bool) -> None:
    scene = Scene()
    scene.prepare_lines()
    scene.stt.tells_eager = drafted
    scene.llm.plans = ["hang"]
    result = scene.play(waits_long_for_answers)
    assert (result.outcome, result.detail) == ("provider_failure", "no audio in time (llm)")
    assert scene.agent_heard()[1:] == [*FILLERS, FAILURE_FAREWELL]
    (ended,) = scene.turn_ends()
    first, second, farewell = scene.utterances[1:]
    assert first.began == pytest.approx(ended + FILLER_S, abs=SOON_S)
    assert second.began == pytest.approx(first.ended + FILLER_S, abs=SOON_S)
    assert farewell.began == pytest.approx(ended + GIVE_UP_S, abs=SOON_S)
    late = [at for at, command in scene.commands(t.FailOver) if command == t.FailOver(3, "llm", "llm_late")]
    assert late == [pytest.approx(ended + FAILOVER_S, abs=SOON_S)]
    assert farewell.latency.causes == ("llm_late", "llm_gave_up")
    assert farewell.latency.total_ms == pytest.approx(500 + GIVE_UP_S * 1000, abs=100)
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.nothing_is_left()


def test_a_late_model_is_bridged_by_a_filler_which_is_a_turn_of_its_own() -> None:
    scene = fault_scene()

    def script(request: ChatRequest) -> Answer:
        late = request.messages[-1].content == "First question"
        return Answer("It is at ten.", first_token_s=2.0) if late else Answer("Yes.")

    scene.llm.script = script
    assert scene.play(hangs_up_after_two).outcome == "callee_hung_up"
    assert scene.agent_heard()[1:] == [FILLERS[0], "It is at ten.", "Yes."]
    filler, reply, after = scene.utterances[1:]
    assert (filler.line, filler.latency.causes, filler.latency.total_ms) == ("filler", (), None)
    # The whole wait is the reply's; it follows the filler at once.
    assert reply.latency.causes == ("llm_late",)
    assert reply.latency.total_ms == pytest.approx(500 + 2000 + 100, abs=100)
    assert 0 <= reply.began - filler.ended <= SOON_S
    assert after.latency.causes == ()
    # The model knows what the callee heard, in the order in which it was heard.
    said = [message.content for message in scene.llm.requests[-1].messages if message.role == "assistant"]
    assert said[1:] == [f"{FILLERS[0]} It is at ten."]
    assert scene.nothing_is_left()


def test_the_cause_of_a_wait_that_the_callee_ended_is_on_the_next_turn_of_the_agents() -> None:
    scene = fault_scene()
    scene.llm.plans = ["hang"]

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("First question")
        await scene.net.agent_has_spoken()  # the filler
        await scene.say("Hello are you there")
        await scene.net.agent_has_spoken()
        scene.net.drop(1000)

    assert scene.play(callee).outcome == "callee_hung_up"
    answer = scene.utterances[-1]
    assert answer.heard_text == "This is answer number 2."
    assert answer.latency.causes == ("llm_late",)
    # The wait is over once the callee speaks: this answer's own counts.
    assert answer.latency.total_ms == pytest.approx(850, abs=60)
    last = scene.llm.requests[-1].messages
    assert [message.content for message in last[-3:]] == [
        "First question",
        FILLERS[0],
        "Hello are you there",
    ]


@pytest.mark.parametrize("plan", ["cut", "stall"])
def test_a_model_that_stops_in_the_middle_is_heard_up_to_there(plan: LlmPlan) -> None:
    scene = fault_scene()
    scene.llm.plans = [plan]
    scene.llm.answers = ["The first sentence is whole. The second one never comes to its end, sadly.", "Good."]
    result = scene.play(waits_long_for_answers)
    heard = scene.agent_heard()
    assert heard[1] == "The first sentence is whole."
    if plan == "cut":
        assert result.outcome == "callee_hung_up"
        assert heard[2:] == [APOLOGY, "Good."]
        assert scene.utterances[1].latency.causes == ("llm_failed",)
        assert scene.net.silence.longest_s <= 0.5
    else:
        # Without a word for so long as an answer may take, the turn is lost.
        assert (result.outcome, result.detail) == ("provider_failure", "no audio in time (llm)")
        assert heard[2:] == [*FILLERS, FAILURE_FAREWELL]
        assert scene.utterances[1].latency.causes == ("llm_late", "llm_gave_up")
        assert scene.utterances[2].began == pytest.approx(scene.utterances[1].ended + FILLER_S, abs=SOON_S)
        assert scene.utterances[-1].began == pytest.approx(scene.utterances[1].ended + GIVE_UP_S, abs=SOON_S)
        assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plan", ["401", "cut", "empty"])
def test_a_model_that_fails_twice_in_a_row_ends_the_call_with_words(plan: LlmPlan) -> None:
    scene = fault_scene()
    scene.llm.plans = [plan, plan]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "provider_failure"
    assert [utterance.line for utterance in scene.utterances if utterance.line != "reply"] == [
        "opening",
        "apology",
        "failure_farewell",
    ]
    assert scene.agent_heard()[-1] == FAILURE_FAREWELL
    assert [cause for utterance in scene.utterances for cause in utterance.latency.causes] == ["llm_failed"] * 2
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


def test_failures_that_are_not_in_a_row_do_not_end_the_call() -> None:
    scene = fault_scene()
    scene.llm.plans = ["429", "ok", "429", "ok"]

    async def callee(scene: Scene) -> None:
        await scene.converse("One", "Two", "Three", "Four")
        scene.net.drop(1000)

    assert scene.play(callee).outcome == "callee_hung_up"
    assert scene.agent_heard().count(APOLOGY) == 2
    assert len(scene.llm.requests) == 4


def test_a_model_that_hangs_in_the_middle_has_its_answer_finished_by_the_second_one() -> None:
    scene = fault_scene()
    scene.llm.plans = ["stall"]
    scene.llm.answers = ["The first sentence is whole. The second one never comes to its end, sadly."]
    scene.second_llm = ScriptedModel(answers=["The second one is here.", "Good."], name="second")
    result = scene.play(waits_long_for_answers)
    assert result.outcome == "callee_hung_up"
    assert scene.agent_heard()[1:3] == ["The first sentence is whole. The second one is here.", FILLERS[0]]
    (asked, *_) = scene.second_llm.requests
    assert [message.content for message in asked.messages if message.role == "assistant"][-1] == (
        "The first sentence is whole. "
    )
    assert [command for _, command in scene.commands(t.FailOver)] == [t.FailOver(3, "llm", "llm_late")]
    assert scene.utterances[1].latency.causes == ("llm_late",)
    reply, filler = scene.utterances[1:3]
    assert reply.began < filler.began < filler.ended < reply.ended, "the filler is inside the reply"
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.nothing_is_left()


# --- the synthesizer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["fail", "429", "silent", "half_open"])
def test_a_synthesizer_that_fails_once_costs_the_prepared_apology(plan: TtsPlan) -> None:
    scene = fault_scene()
    scene.tts.plans = [plan]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "callee_hung_up"
    fillers = FILLERS if plan == "half_open" else []
    assert scene.agent_heard()[1:] == [*fillers, APOLOGY, "This is answer number 2."]
    apology = scene.utterances[-2]
    assert apology.latency.causes == (("tts_late", "tts_failed") if fillers else ("tts_failed",))
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.nothing_is_left()


def test_a_synthesizer_that_hangs_is_given_up_in_prepared_words() -> None:
    scene = fault_scene()
    scene.tts.plans = ["hang"] * 9
    result = scene.play(waits_long_for_answers)
    assert (result.outcome, result.detail) == ("provider_failure", "no audio in time (tts)")
    assert scene.agent_heard()[1:] == [*FILLERS, FAILURE_FAREWELL]
    assert scene.utterances[-1].latency.causes == ("tts_late", "tts_gave_up")
    assert scene.utterances[-1].began == pytest.approx(scene.turn_ends()[0] + GIVE_UP_S, abs=SOON_S)
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.nothing_is_left()


def test_a_synthesizer_that_breaks_off_in_the_middle_of_a_sentence_costs_an_apology() -> None:
    scene = fault_scene()
    scene.tts.plans = ["cut"]
    scene.llm.answers = ["A sentence that is long enough to be cut.", "Fine."]
    result = scene.play(waits_long_for_answers)
    assert result.outcome == "callee_hung_up"
    heard = scene.agent_heard()
    assert "A sentence that is long enough to be cut.".startswith(heard[1])
    assert len(heard[1]) < 20
    assert scene.utterances[1].interrupted
    assert heard[2:] == [APOLOGY, "Fine."]
    assert scene.net.silence.longest_s <= 0.5


def test_a_synthesizer_that_stalls_in_the_middle_of_a_sentence_is_given_up() -> None:
    scene = fault_scene()
    scene.tts.plans = ["stall"]
    scene.llm.answers = ["A sentence that is long enough to be cut."]
    result = scene.play(waits_long_for_answers)
    assert (result.outcome, result.detail) == ("provider_failure", "no audio in time (tts)")
    cut, *fillers, farewell = scene.utterances[1:]
    assert [filler.heard_text for filler in fillers] == FILLERS
    assert cut.interrupted and "A sentence that is long enough to be cut.".startswith(cut.heard_text)
    assert cut.latency.causes == ("tts_late", "tts_gave_up")
    assert farewell.heard_text == FAILURE_FAREWELL
    assert farewell.began - fillers[0].began == pytest.approx(GIVE_UP_S - FILLER_S, abs=SOON_S)
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("plan", ["cut", "stall"])
def test_the_second_synthesizer_speaks_the_words_that_the_first_one_left(plan: TtsPlan) -> None:
    scene = fault_scene()
    scene.tts.plans = [plan]
    scene.second_tts = ScriptedSynthesizer(scene.words, name="second")
    text = "A sentence that is long enough to be cut."
    scene.llm.answers = [text, "Fine."]
    result = scene.play(waits_long_for_answers)
    assert result.outcome == "callee_hung_up"
    fillers = FILLERS[:1] if plan == "stall" else []
    assert scene.agent_heard()[1:] == [text, *fillers, "Fine."]
    # It begins with the word that was cut, so no word is missing and at most one is heard twice.
    assert len(scene.second_tts.texts) == 2
    assert text.endswith(scene.second_tts.texts[0]) and 5 < len(scene.second_tts.texts[0]) < len(text)
    answered_at = scene.stt.turn_ends[0]
    whole = [heard.word.text for heard in scene.net.heard if heard.whole and heard.began_at > answered_at]
    # While the second one begins, a filler bridges the wait.
    bridged = fillers[0].split() if fillers else []
    before = whole.index(bridged[0]) if bridged else 0
    assert whole[before : before + len(bridged)] == bridged
    del whole[before : before + len(bridged)]
    assert whole[: len(text.split())] == text.split()
    cause = "tts_failed" if plan == "cut" else "tts_late"
    assert scene.utterances[1].latency.causes == (cause,)
    assert scene.net.silence.longest_s <= FILLER_S + SOON_S
    assert scene.nothing_is_left()


def test_of_two_voices_that_stall_no_more_is_told_than_was_heard() -> None:
    """`Scene.play` asks the callee's ear. The first voice had told when it would say each word."""
    scene = fault_scene()
    scene.tts.plans = ["stall"]
    scene.second_tts = ScriptedSynthesizer(scene.words, plans=["stall"], name="second")
    scene.llm.answers = ["Wonderful sentences are long enough to be cut."]
    result = scene.play(waits_long_for_answers)
    assert result.outcome == "provider_failure"
    cut = scene.utterances[1]
    # Twice the beginning of a word that takes longer than either voice spoke.
    assert cut.interrupted and cut.heard_text == ""
    assert scene.nothing_is_left()


@pytest.mark.parametrize("stage", ["opening never heard", "opening cut"])
def test_a_call_whose_opening_was_not_said_to_its_end_does_not_go_on(stage: str) -> None:
    scene = fault_scene()
    scene.lines = LineCache()
    scene.tts.plans = ["hang" if stage == "opening never heard" else "cut"]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "provider_failure"
    assert scene.llm.requests == []
    # Of its first word, which takes longer, the second call heard a part.
    assert scene.agent_heard() == ([] if stage == "opening never heard" else [""])
    assert scene.net.hang_ups == ["carrier-1"]
    assert scene.nothing_is_left()


def test_a_synthesizer_that_never_ends_is_ended_and_the_talk_goes_on() -> None:
    scene = fault_scene()
    scene.tts.plans = ["endless"]
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "callee_hung_up"
    assert scene.agent_heard()[1:] == ["This is answer number 1.", "This is answer number 2."]
    assert not any(utterance.interrupted for utterance in scene.utterances)
    assert scene.utterances[1].ended - scene.utterances[1].began <= 1.5 + 2.5
    assert scene.nothing_is_left()


def test_a_synthesizer_that_stays_down_says_goodbye_with_prepared_words() -> None:
    """Nobody prepared the lines: the call itself did, while it said its opening."""
    scene = Scene()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken(quiet_s=2)
        scene.tts.down = True
        await scene.say("First question")
        await scene.net.agent_has_spoken()
        await scene.say("Second question")
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "provider_failure"
    assert scene.agent_heard()[1:] == [APOLOGY, FAILURE_FAREWELL]
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize(("plan", "within_s"), [("fail", 1.0), ("hang", GIVE_UP_S + SOON_S)])
def test_a_synthesizer_that_is_down_from_the_start_hangs_up(plan: TtsPlan, within_s: float) -> None:
    scene = Scene()
    scene.tts.plans = [plan] * 20
    result = scene.play()
    assert result.outcome == "provider_failure"
    assert scene.memory.turns == []
    assert scene.net.hang_ups == ["carrier-1"]
    assert result.duration_s <= within_s
    # Nothing that anybody heard could bear the causes: the end of the call tells them.
    causes = [cause for _, cause in scene.record.causes]
    assert causes == (["tts_failed"] * 2 if plan == "fail" else ["tts_late", "tts_gave_up", "tts_failed"])
    assert [c.kind for _, c in scene.commands(t.SpeakLine) if isinstance(c, t.SpeakLine)] == [
        "opening",
        "failure_farewell",
    ]
    assert scene.nothing_is_left()


def test_with_prepared_lines_a_dead_synthesizer_is_first_missed_at_an_answer() -> None:
    scene = fault_scene()
    scene.tts.down = True
    result = scene.play(hangs_up_after_two)
    assert result.outcome == "provider_failure"
    assert [utterance.line for utterance in scene.utterances] == ["opening", "apology", "failure_farewell"]
    assert scene.utterances[0].began <= SOON_S
    assert scene.nothing_is_left()


# --- the transcriber --------------------------------------------------------------------------------------------------


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
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert scene.nothing_is_left()


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("plans", [["401"], ["refuse", "refuse"], ["cut", "cut"], ["end", "refuse"]])
def test_a_transcriber_that_fails_for_good_ends_the_call_with_words(plans: list[SttPlan], prepared: bool) -> None:
    scene = Scene()
    if prepared:
        scene.prepare_lines()
    scene.stt.plans = list(plans)

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("Can you hear me", ms=3000)
        await asyncio.sleep(60)

    result = scene.play(callee)
    assert result.outcome == "provider_failure"
    assert scene.agent_heard()[-1] == FAILURE_FAREWELL
    assert scene.utterances[-1].latency.causes == ("stt_failed",)
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
    assert scene.utterances[1].latency.causes == ("stt_failed",)
    assert scene.net.silence.longest_s <= LONGEST_SILENCE_S
    assert not any("Nobody" in message.content for request in scene.llm.requests[-1:] for message in request.messages)
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
    assert scene.net.clears == 0
    # Nor is it taken for the callee's voice: after 8 s without a word the agent asks.
    assert scene.agent_heard()[1:] == [STILL_THERE]
    assert scene.utterances[1].began == pytest.approx(scene.utterances[0].ended + 8, abs=SOON_S)
