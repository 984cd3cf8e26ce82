"""The turn machine: what a callee who waits for the agent's voice gets, and when."""

from __future__ import annotations

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.deadlines import DeadlineLadder
from serve_app.conversation.phrases import phrases_of
from serve_app.conversation.turn import REPAIR_TIMEOUT_S, TurnMachine
from tests.unit.turn_fixtures import Talk, agent_with, causes, kinds, only, spoken

LADDER = {"filler": 1.2, "failover": 2.5, "reply": 6}


def asked(**changes: object) -> Talk:
    """The agent thinks."""
    talk = Talk.listening(**changes)
    talk.on(t.CalleeTurnEnded("Where can I park"))
    return talk


def fills(talk: Talk) -> t.SpeakLine:
    """The filler is played, and over."""
    line = only(t.SpeakLine, talk.fire("filler"))
    talk.on(t.PlayoutStarted(line.generation), t.PlayoutDrained(line.generation))
    return line


def test_the_ladder_begins_with_the_thinking() -> None:
    assert asked().waits == LADDER


def test_its_rungs_may_be_set() -> None:
    machine = TurnMachine(agent_with(), ladder=DeadlineLadder(filler_s=0.5, failover_s=1, give_up_s=2))
    machine.handle(t.CallConnected())
    machine.handle(t.PlayoutDrained(1))
    commands = machine.handle(t.CalleeTurnEnded("Hi"))
    assert [c for c in commands if isinstance(c, t.SetTimer)][-3:] == [
        t.SetTimer("reply", 2),
        t.SetTimer("failover", 1),
        t.SetTimer("filler", 0.5),
    ]


# --- the filler


def test_a_reply_that_is_late_is_bridged_by_a_prepared_filler_ahead_of_it() -> None:
    talk = asked()
    commands = talk.fire("filler")
    reply = talk.generation
    filler = only(t.SpeakLine, commands)
    assert filler == t.SpeakLine(reply - 1, "filler", phrases_of("en").fillers[0], prepared_only=True, before=reply)
    assert causes(commands) == ["llm_late"]
    assert (talk.state, talk.generation) == ("thinking", reply)
    talk.on(t.PlayoutStarted(filler.generation))
    assert talk.waits == {"failover": 2.5, "reply": 6}, "a filler is no reply: the wait goes on"
    talk.on(t.PlayoutDrained(filler.generation))
    assert talk.waits == LADDER, "and there may be another one"
    talk.speaks("Behind the building.")
    assert (talk.state, talk.waits) == ("speaking", {})


def test_fillers_take_turns_over_the_whole_call() -> None:
    talk = asked(policies={"fillers": ["Um.", "Er.", "Well."]})
    said = [fills(talk).text for _ in range(2)]
    talk.play_out("Behind the building.")
    talk.on(t.CalleeTurnEnded("And then"))
    said += [fills(talk).text for _ in range(2)]
    assert said == ["Um.", "Er.", "Well.", "Um."]


def test_a_filler_does_not_come_over_a_reply_that_is_heard() -> None:
    talk = asked()
    talk.speaks("Behind.")
    assert talk.on(t.TimerFired("filler")) == []


def test_the_end_of_a_filler_after_the_reply_has_begun_asks_for_no_other() -> None:
    talk = asked()
    filler = only(t.SpeakLine, talk.fire("filler")).generation
    talk.on(t.PlayoutStarted(filler), t.PlayoutStarted(talk.generation), t.PlayoutDrained(filler))
    assert talk.waits == {}


def test_an_interruption_takes_the_filler_with_it() -> None:
    talk = asked()
    filler = only(t.SpeakLine, talk.fire("filler")).generation
    talk.on(t.PlayoutStarted(filler))
    assert kinds(talk.on(t.CalleePartial("never mind that"))) == [t.CancelReply, t.ClearPlayout]
    assert talk.on(t.PlayoutStarted(filler), t.PlayoutDrained(filler)) == []
    assert talk.waits == {"silence": 8}


def test_a_filler_is_in_the_language_that_is_spoken() -> None:
    talk = asked(languages={"fr": {"fillers": ["Euh."]}})
    talk.calls("switch_language", language="fr")
    assert fills(talk).text == "Euh."


# --- the model is asked again about the same words


def counting(talk: Talk, event: t.TurnEvent) -> list[t.TimerName]:
    """The timers that this event sets or cancels."""
    return [c.name for c in talk.machine.handle(event) if isinstance(c, t.SetTimer | t.CancelTimer)]


def test_a_change_of_language_does_not_begin_the_wait_anew() -> None:
    """Nor does an answer without words. The next provider alone has its time from then on."""
    talk = asked(languages={"es": {}})
    assert talk.waits == LADDER
    switch = t.ToolCalled(talk.generation, "switch_language", {"language": "es"})
    assert [name for name in counting(talk, switch) if name != "resume"] == ["failover"]
    assert counting(talk, t.PlayoutDrained(talk.generation)) == ["failover"]
    assert causes(talk.fire("reply")) == ["llm_gave_up"]
    assert talk.state == "ending", "then it is over"


def test_a_second_change_in_the_same_turn_is_refused_and_the_next_turn_may_have_one() -> None:
    talk = asked(languages={"es": {}})
    assert t.SwitchLanguage("es") in talk.calls("switch_language", language="es")
    assert talk.calls("switch_language", language="en") == [
        t.NoteCause(talk.generation, "tool_refused: switch_language")
    ]
    assert talk.machine.language == "es"
    talk.play_out("Sí.")
    talk.on(t.CalleeTurnEnded("Perdón?"))
    assert t.SwitchLanguage("en") in talk.calls("switch_language", language="en")


def test_a_filler_that_a_change_of_language_cuts_may_be_followed_by_another() -> None:
    talk = asked(languages={"es": {}})
    filler = only(t.SpeakLine, talk.fire("filler")).generation
    talk.on(t.PlayoutStarted(filler))
    talk.calls("switch_language", language="es")
    assert talk.waits == LADDER


def test_a_change_of_language_after_the_reply_was_heard_begins_a_wait() -> None:
    talk = Talk.answering(languages={"es": {}})
    assert talk.waits == {}
    talk.calls("switch_language", language="es")
    assert talk.waits == LADDER


def test_the_next_provider_may_be_asked_again_after_a_change_of_language() -> None:
    talk = asked(languages={"es": {}})
    talk.fire("failover")
    talk.fire("failover")
    talk.calls("switch_language", language="es")
    assert only(t.FailOver, talk.fire("failover")).generation == talk.generation


# --- the next provider


@pytest.mark.parametrize(("text", "stage"), [("", "llm"), ("Behind the building.", "tts")])
def test_the_stage_that_is_late_is_given_to_its_next_provider(text: str, stage: str) -> None:
    talk = asked()
    if text:
        talk.on(t.ReplySentence(talk.generation, text))
    assert talk.fire("failover") == [t.FailOver(talk.generation, stage, f"{stage}_late")]  # type: ignore[arg-type]
    assert talk.waits == LADDER, "the next one has as long as the one before"


def test_each_stage_fails_over_once() -> None:
    talk = asked()
    assert only(t.FailOver, talk.fire("failover")).stage == "llm"
    talk.on(t.ReplySentence(talk.generation, "Behind."))
    assert only(t.FailOver, talk.fire("failover")).stage == "tts"
    assert talk.fire("failover") == []
    assert "reply" in talk.waits


def test_the_next_reply_may_fail_over_again() -> None:
    talk = asked()
    talk.fire("failover")
    talk.play_out("Behind the building.")
    talk.on(t.CalleeTurnEnded("And then"))
    assert only(t.FailOver, talk.fire("failover")).stage == "llm"


def test_a_failure_goes_to_the_next_provider_if_there_is_one_and_to_an_apology_the_second_time() -> None:
    talk = asked()
    assert talk.fails(other=True) == [t.FailOver(talk.generation, "llm", "llm_failed")]
    assert (talk.state, talk.waits) == ("thinking", LADDER)
    assert spoken(talk.fails(other=True)) == "apology"


def test_a_failure_of_each_stage_is_given_over_by_itself() -> None:
    talk = asked()
    assert kinds(talk.fails("llm", other=True)) == [t.FailOver]
    assert kinds(talk.fails("tts", other=True)) == [t.FailOver]


def test_a_provider_that_takes_over_while_the_callee_hears_speech_is_not_late() -> None:
    """The first sentence plays while the model breaks off: nothing is waited for until it runs dry."""
    talk = Talk.answering()
    assert kinds(talk.fails("llm", other=True)) == [t.FailOver]
    assert talk.waits == {}
    talk.on(t.PlayoutDry(talk.generation, "llm"))
    assert talk.waits == LADDER


def test_a_fixed_line_has_no_model_to_fail_over() -> None:
    talk = Talk()
    talk.on(t.CallConnected())
    assert talk.waits == {"failover": 2.5, "reply": 6}
    assert only(t.FailOver, talk.fire("failover")).stage == "tts"


@pytest.mark.parametrize("stage", ["llm", "tts"])
def test_a_reply_that_runs_dry_climbs_the_ladder_again_for_the_stage_that_owes_more(stage: str) -> None:
    talk = Talk.answering()
    talk.on(t.PlayoutDry(talk.generation, stage))  # type: ignore[arg-type]
    assert talk.waits == LADDER
    assert only(t.FailOver, talk.fire("failover")).stage == stage
    assert causes(talk.fire("reply")) == [f"{stage}_gave_up"]


# --- giving up


@pytest.mark.parametrize(("text", "stage"), [("", "llm"), ("Behind the building.", "tts")])
def test_a_reply_that_is_never_heard_ends_the_call_with_an_apology(text: str, stage: str) -> None:
    talk = asked()
    if text:
        talk.on(t.ReplySentence(talk.generation, text))
    old = talk.generation
    commands = talk.fire("reply")
    assert commands[:2] == [t.NoteCause(old, f"{stage}_gave_up"), t.CancelReply(old)]
    farewell = only(t.SpeakLine, commands)
    assert (farewell.kind, farewell.prepared_only) == ("failure_farewell", stage == "tts")
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S, "ending": 45}
    assert talk.play_out() == [t.HangUp("provider_failure", f"no audio in time ({stage})")]


@pytest.mark.parametrize("heard", [True, False])
def test_without_its_opening_a_call_does_not_go_on(heard: bool) -> None:
    """What the law wants said first was not said, or not to its end: nothing but a goodbye may follow."""
    talk = Talk()
    talk.on(t.CallConnected())
    if heard:
        talk.on(t.PlayoutStarted(1))
        talk.on(t.PlayoutDry(1))
    commands = talk.fire("reply")
    assert (spoken(commands), causes(commands)) == ("failure_farewell", ["tts_gave_up"])
    assert only(t.SpeakLine, commands).prepared_only
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S, "ending": 45}
    assert only(t.HangUp, talk.fire("reply")).outcome == "provider_failure"


def test_the_repair_is_heard_soon_or_the_call_ends() -> None:
    talk = asked()
    talk.fails()
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S}
    assert only(t.HangUp, talk.fire("reply")).outcome == "provider_failure"


# --- what still plays


def test_the_repair_waits_for_what_still_plays() -> None:
    talk = Talk.answering()
    reply = talk.generation
    assert spoken(talk.fails()) == "apology"
    assert talk.waits == {}
    talk.on(t.PlayoutDrained(reply))
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S}
    talk.speaks()
    assert talk.waits == {}


def test_the_repair_waits_for_a_filler_too_also_for_one_that_begins_later() -> None:
    talk = asked()
    filler = only(t.SpeakLine, talk.fire("filler")).generation
    talk.fails()
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S}
    talk.on(t.PlayoutStarted(filler))
    assert talk.waits == {}
    talk.on(t.PlayoutDrained(filler))
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S}


def test_what_still_plays_may_run_dry_too() -> None:
    talk = Talk.answering()
    reply = talk.generation
    talk.fails()
    talk.on(t.PlayoutDry(reply))
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S}
