"""The turn machine: what interrupts the agent, what does not, and what becomes of words said over it."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import Language
from tests.unit.turn_fixtures import Talk, kinds, only, spoken

HOLDING: dict[str, Any] = {"policies": {"interruption": {"min_words": 0}}}


def interrupts(talk: Talk, *events: t.TurnEvent) -> bool:
    """Whether these make the agent fall silent for good."""
    old = talk.generation
    commands = talk.on(*events)
    if not commands:
        return False
    assert commands == [t.CancelReply(old), t.ClearPlayout(old)]
    assert talk.generation > old
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})
    return True


def test_two_words_interrupt_and_one_does_not() -> None:
    talk = Talk.answering()
    assert not interrupts(talk, t.CalleeSpeechStarted(), t.CalleePartial("Tuesday"))
    assert talk.state == "speaking"
    assert interrupts(talk, t.CalleePartial("Tuesday is"))


@pytest.mark.parametrize(("min_words", "text", "stops"), [(1, "Tuesday", True), (3, "Tuesday is", False)])
def test_how_many_words_it_takes_is_a_policy(min_words: int, text: str, stops: bool) -> None:
    talk = Talk.answering(policies={"interruption": {"min_words": min_words}})
    assert interrupts(talk, t.CalleePartial(text)) == stops


def test_the_words_may_come_with_the_beginning_or_the_end_of_the_speech() -> None:
    assert interrupts(Talk.answering(), t.CalleeSpeechStarted("I have a question"))
    talk = Talk.answering()
    commands = talk.on(t.CalleeTurnEnded("I have a question"))
    assert kinds(commands) == [t.CancelReply, t.ClearPlayout, t.StartReply], "a transcriber without partial texts"


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["Stop", "wait", "No.", "sorry?", "hold on"]),
        ("es", ["Espere", "no", "basta", "un momento"]),
        ("fr", ["Attendez", "non", "stop", "un instant"]),
    ],
)
def test_some_words_interrupt_alone(language: Language, words: list[str]) -> None:
    for word in words:
        strict = {"interruption": {"min_words": 10}}
        assert interrupts(Talk.answering(language=language, policies=strict), t.CalleePartial(word)), word


@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["mhm", "Okay.", "yeah yeah, sure", "right, I see, got it", "oh okay that's fine thanks"]),
        ("es", ["ajá", "sí, claro", "vale vale", "de acuerdo, muy bien, gracias"]),
        ("fr", ["mhm", "oui oui", "d'accord", "ah bon, très bien, merci"]),
    ],
)
def test_listening_noises_never_interrupt(language: Language, words: list[str]) -> None:
    for text in words:
        talk = Talk.answering(language=language, policies={"interruption": {"min_words": 1}})
        assert not interrupts(talk, t.CalleeSpeechStarted(), t.CalleePartial(text), t.CalleeTurnEnded(text)), text
        assert (talk.state, talk.waits) == ("speaking", {})


def test_an_agent_may_have_words_of_its_own_of_both_kinds() -> None:
    words = {"always": ["tally ho"], "backchannels": ["roger that"]}
    assert interrupts(Talk.answering(policies={"interruption": {"min_words": 9, **words}}), t.CalleePartial("Tally-ho"))
    talk = Talk.answering(policies={"interruption": {"min_words": 1, **words}})
    assert not interrupts(talk, t.CalleePartial("Roger that, okay"))


def test_words_of_every_language_of_the_agent_count_at_any_moment() -> None:
    assert interrupts(Talk.answering(languages={"fr": {}}), t.CalleePartial("attendez"))
    assert not interrupts(Talk.answering(), t.CalleePartial("attendez")), "one word that says nothing to this agent"


def test_the_opening_is_said_to_its_end() -> None:
    talk = Talk()
    talk.on(t.CallConnected(), t.PlayoutStarted(1))
    assert not interrupts(talk, t.CalleePartial("stop"), t.CalleePartial("stop right now"))
    assert talk.state == "speaking"


def test_the_opening_may_be_made_interruptible() -> None:
    talk = Talk(policies={"opening_interruptible": True})
    talk.on(t.CallConnected(), t.PlayoutStarted(1))
    assert interrupts(talk, t.CalleePartial("I have a question"))


def test_an_agent_that_may_not_be_interrupted_answers_afterwards() -> None:
    talk = Talk.answering(policies={"interruptible": False})
    assert not interrupts(talk, t.CalleePartial("stop it now"), t.CalleeTurnEnded("stop it now"))
    assert only(t.StartReply, talk.play_out()).user_text == "stop it now"
    assert not interrupts(talk, t.CalleePartial("and another thing")), "nor while it thinks"


@pytest.mark.parametrize(
    ("text", "takes_over"), [("mhm", False), ("", False), ("Thursday", True), ("and parking", True)]
)
def test_while_the_agent_thinks_any_word_that_says_something_takes_the_turn(text: str, takes_over: bool) -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("I could come on Wednesday or"))
    assert interrupts(talk, t.CalleePartial(text)) == takes_over
    if takes_over:
        assert only(t.StartReply, talk.on(t.CalleeTurnEnded(text))).user_text == text


def test_a_fixed_line_is_interrupted_like_a_reply_but_not_the_farewell() -> None:
    talk = Talk.listening()
    talk.fire("silence")
    assert interrupts(talk, t.CalleePartial("yes I am here"))
    ending = Talk.listening()
    ending.fire("max_duration")
    assert not interrupts(ending, t.CalleePartial("yes I am here"))


# --- hold and resume


def test_where_a_sound_is_enough_the_agent_falls_silent_and_goes_on_when_no_words_come() -> None:
    talk = Talk.answering(**HOLDING)
    assert talk.on(t.CalleeSpeechStarted()) == [t.HoldPlayout()]
    assert (talk.state, talk.waits) == ("interrupted", {"resume": 1.5})
    assert talk.fire("resume") == [t.ResumePlayout()]
    assert (talk.state, talk.waits) == ("speaking", {"failover": 2.5, "reply": 6}), "until it sounds again"
    assert talk.speaks() == []
    assert (talk.play_out(), talk.state, talk.waits) == ([], "listening", {"silence": 8})


def test_the_time_to_wait_for_words_is_a_policy() -> None:
    talk = Talk.answering(policies={"interruption": {"min_words": 0, "resume_after_s": 0.6}})
    talk.on(t.CalleeSpeechStarted())
    assert talk.waits == {"resume": 0.6}


@pytest.mark.parametrize("text", ["Thursday", "what about parking", "no"])
def test_words_make_it_an_interruption(text: str) -> None:
    talk = Talk.answering(**HOLDING)
    talk.on(t.CalleeSpeechStarted())
    assert interrupts(talk, t.CalleePartial(text))


@pytest.mark.parametrize("text", ["", "mhm", "okay, sure"])
def test_the_end_of_a_turn_that_said_nothing_lets_the_agent_go_on_at_once(text: str) -> None:
    talk = Talk.answering(**HOLDING)
    talk.on(t.CalleeSpeechStarted())
    assert talk.on(t.CalleePartial(text)) == []
    assert talk.on(t.CalleeTurnEnded(text)) == [t.ResumePlayout()]
    assert "resume" not in talk.waits


def test_a_second_sound_while_held_changes_nothing() -> None:
    talk = Talk.answering(**HOLDING)
    assert talk.on(t.CalleeSpeechStarted(), t.CalleeSpeechStarted(), t.CalleePartial()) == [t.HoldPlayout()]
    assert talk.waits == {"resume": 1.5}


def test_speech_that_was_over_when_it_was_held_is_over() -> None:
    """The news of its end was on its way."""
    talk = Talk.answering(**HOLDING)
    talk.on(t.CalleeSpeechStarted())
    assert talk.on(t.PlayoutDrained(talk.generation)) == [t.ResumePlayout()]
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})


@pytest.mark.parametrize("kind", [t.PlayoutStarted, t.PlayoutDry])
def test_old_news_of_held_speech_takes_no_deadline_from_what_is_resumed(kind: type) -> None:
    talk = Talk.answering(**HOLDING)
    talk.on(t.CalleeSpeechStarted())
    assert talk.on(kind(talk.generation)) == []
    assert talk.waits == {"resume": 1.5}
    talk.fire("resume")
    assert talk.waits == {"failover": 2.5, "reply": 6}


def test_a_failure_while_held_is_told_and_the_rest_of_the_reply_is_not() -> None:
    talk = Talk.answering(**HOLDING)
    old = talk.generation
    talk.on(t.CalleeSpeechStarted())
    commands = talk.fails("tts")
    assert t.ClearPlayout(old) in commands, "which ends the hold"
    assert (spoken(commands), talk.state, "resume" in talk.waits) == ("apology", "speaking", False)


def test_the_other_provider_goes_on_behind_a_hold() -> None:
    talk = Talk.answering(**HOLDING)
    talk.on(t.CalleeSpeechStarted())
    assert kinds(talk.fails("tts", other=True)) == [t.FailOver]
    assert (talk.state, talk.waits) == ("interrupted", {"resume": 1.5})


def test_a_tool_call_is_not_lost_to_a_hold() -> None:
    talk = Talk.answering(**HOLDING)
    talk.on(t.CalleeSpeechStarted())
    assert only(t.OptOut, talk.calls("opt_out", reason="said so")).source == "model"


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        (t.TimerFired("max_duration"), None),
        (t.TranscriberFailed("gone"), None),
        (t.MediaClosed("callee_hung_up", "closed"), "callee_hung_up"),
        (t.HangUpRequested("by hand"), "agent_hung_up"),
    ],
)
def test_whatever_ends_the_call_ends_the_hold(event: t.TurnEvent, outcome: str | None) -> None:
    talk = Talk.answering(**HOLDING)
    old = talk.generation
    talk.on(t.CalleeSpeechStarted())
    commands = talk.on(event)
    assert t.ClearPlayout(old) in commands
    assert "resume" not in talk.waits
    assert [c.outcome for c in commands if isinstance(c, t.HangUp)] == ([outcome] if outcome else [])


def test_the_repair_behind_held_speech_waits_for_the_rest_of_it() -> None:
    """A reply broke off; what there was of it plays on, and the apology is queued behind it."""
    talk = Talk.answering(**HOLDING)
    reply = talk.generation
    talk.fails()
    assert talk.waits == {}, "the reply still sounds"
    assert talk.on(t.CalleeSpeechStarted()) == [t.HoldPlayout()]
    assert talk.fire("resume") == [t.ResumePlayout()]
    assert talk.waits == {}
    talk.on(t.PlayoutStarted(reply))
    assert talk.waits == {}
    talk.on(t.PlayoutDrained(reply))
    assert talk.waits == {"reply": 0.9}


# --- words that may become a backchannel


def test_no_problem_is_no_interruption() -> None:
    talk = Talk.answering()
    assert talk.on(t.CalleeSpeechStarted(), t.CalleePartial("no")) == [t.HoldPlayout()], "silent at once, as for a no"
    assert talk.on(t.CalleePartial("no"), t.CalleePartial("no problem")) == []
    assert talk.on(t.CalleeTurnEnded("No problem.")) == [t.ResumePlayout()]
    assert talk.state == "speaking"


def test_a_no_is_one_when_nothing_follows() -> None:
    for event in (t.CalleeTurnEnded("no"), t.CalleePartial("no I meant"), t.CalleePartial("No.")):
        talk = Talk.answering()
        old = talk.generation
        assert talk.on(t.CalleePartial("no")) == [t.HoldPlayout()]
        assert talk.on(event)[:2] == [t.CancelReply(old), t.ClearPlayout(old)]
    talk = Talk.answering()
    old = talk.generation
    talk.on(t.CalleePartial("no"))
    assert talk.fire("resume") == [t.CancelReply(old), t.ClearPlayout(old)], "also where the end is not told"
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})


def test_that_makes_sense_is_no_interruption_at_any_word_of_it() -> None:
    talk = Talk.answering()
    partials = [t.CalleePartial(text) for text in ("that", "that makes", "that makes sense")]
    assert talk.on(*partials, t.CalleeTurnEnded("That makes sense.")) == []
    assert interrupts(talk, t.CalleePartial("that makes"), t.CalleePartial("that makes it late"))


# --- words said over the agent that did not interrupt it


def test_one_word_over_the_agent_is_answered_when_the_agent_has_finished() -> None:
    talk = Talk.answering("Would Tuesday or Thursday suit you better.")
    assert talk.on(t.CalleeTurnEnded("Thursday", agent_left_s=1.0)) == []
    assert only(t.StartReply, talk.play_out()).user_text == "Thursday"


def test_several_turns_over_the_agent_are_answered_together() -> None:
    talk = Talk.answering(policies={"interruptible": False})
    talk.on(t.CalleeTurnEnded("Thursday"), t.CalleeTurnEnded("okay", 9), t.CalleeTurnEnded("at noon"))
    assert only(t.StartReply, talk.play_out()).user_text == "Thursday at noon"
    assert talk.machine.callee_turns == 2


@pytest.mark.parametrize(
    ("said", "left_s", "answered"),
    [
        ("Does Thursday suit you?", 0.0, True),
        ("Does Thursday suit you? ", 1.5, True),
        ("Does Thursday suit you?", 1.6, False),
        ("Does Thursday suit you?", float("inf"), False),
        ("Then Thursday it is.", 0.0, False),
    ],
)
def test_a_yes_over_the_last_words_of_a_question_is_its_answer(said: str, left_s: float, answered: bool) -> None:
    talk = Talk.answering(said)
    assert talk.on(t.CalleeTurnEnded("Yes", agent_left_s=left_s)) == []
    assert [c.user_text for c in talk.play_out() if isinstance(c, t.StartReply)] == (["Yes"] if answered else [])
    assert talk.state == ("thinking" if answered else "listening")


def test_hello_over_the_opening_is_no_answer_to_it() -> None:
    talk = Talk(opening="Hello, this is Ava, an AI.")
    talk.on(t.CallConnected(), t.PlayoutStarted(1), t.CalleeTurnEnded("Hello, who is this?"))
    assert (talk.play_out(), talk.state) == ([], "listening")


def test_hello_over_anything_else_is() -> None:
    talk = Talk.answering(policies={"interruptible": False})
    talk.on(t.CalleeTurnEnded("Hello, who is this?"))
    assert only(t.StartReply, talk.play_out()).user_text == "Hello, who is this?"


def test_an_answer_given_over_the_opening_is_answered_after_it() -> None:
    talk = Talk()
    talk.on(t.CallConnected(), t.PlayoutStarted(1), t.CalleeTurnEnded("Tuesday is fine", agent_left_s=4))
    assert only(t.StartReply, talk.play_out()).user_text == "Tuesday is fine"


def test_words_said_over_the_agent_are_not_lost_to_an_interruption() -> None:
    talk = Talk.answering()
    talk.on(t.CalleeTurnEnded("Thursday"))
    assert interrupts(talk, t.CalleePartial("and what about parking"))
    draft = only(t.StartDraft, talk.on(t.CalleeTurnMayEnd("and what about parking")))
    reply = only(t.StartReply, talk.on(t.CalleeTurnEnded("and what about parking")))
    assert draft.user_text == reply.user_text == "Thursday and what about parking"
    assert reply.draft == draft.draft
    talk.play_out("Free.")
    assert only(t.StartReply, talk.on(t.CalleeTurnEnded("Good to know"))).user_text == "Good to know", "told once"


def test_listening_noises_are_forgotten_with_an_interruption() -> None:
    talk = Talk.answering()
    talk.on(t.CalleeTurnEnded("mhm", agent_left_s=9), t.CalleePartial("and what about parking"))
    assert only(t.StartReply, talk.on(t.CalleeTurnEnded("and parking"))).user_text == "and parking"
