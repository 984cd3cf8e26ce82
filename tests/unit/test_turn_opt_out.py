"""The turn machine: whoever asks not to be called again is confirmed that, and nothing else is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import phrases_of
from tests.unit.turn_fixtures import Talk, kinds, only

Make = Callable[..., Talk]


def opening(**changes: Any) -> Talk:
    talk = Talk(**changes)
    talk.on(t.CallConnected(), t.PlayoutStarted(1))
    return talk


def thinking(**changes: Any) -> Talk:
    talk = Talk.listening(**changes)
    talk.on(t.CalleeTurnEnded("Where can I park"))
    return talk


def held(**changes: Any) -> Talk:
    talk = Talk.answering(policies={"interruption": {"min_words": 0}}, **changes)
    talk.on(t.CalleeSpeechStarted())
    return talk


def ending(**changes: Any) -> Talk:
    talk = Talk.listening(**changes)
    talk.fire("max_duration")
    talk.speaks()
    return talk


def ending_for_silence(**changes: Any) -> Talk:
    talk = Talk.listening(limits={"silence_prompts": 0}, **changes)
    talk.fire("silence")
    talk.speaks()
    return talk


ANY_STATE = pytest.mark.parametrize(
    "make", [opening, Talk.listening, thinking, Talk.answering, held, ending, ending_for_silence]
)


def check(talk: Talk, commands: list[t.TurnCommand], source: t.OptOutSource, text: str) -> None:
    """It counts before anything else happens, it is confirmed, and the call ends."""
    assert commands[0] == t.OptOut(source, text)
    assert kinds(commands).count(t.OptOut) == 1
    assert commands[-1] == t.SpeakLine(talk.generation, "opted_out", phrases_of("en").lines["opted_out"])
    assert set(kinds(commands[1:-1])) <= {t.CancelReply, t.ClearPlayout, t.DropDraft}
    assert (talk.state, talk.timers["ending"]) == ("ending", 45)
    assert talk.play_out() == [t.HangUp("opted_out", None)]


@ANY_STATE
def test_the_key_counts_in_any_state(make: Make) -> None:
    talk = make()
    check(talk, talk.on(t.KeyPressed("9")), "key", "9")


@ANY_STATE
def test_words_count_in_any_state_as_soon_as_they_are_certain(make: Make) -> None:
    talk = make()
    assert not any(isinstance(c, t.OptOut) for c in talk.on(t.CalleePartial("Take me off your")))
    check(talk, talk.on(t.CalleePartial("Take me off your list")), "phrase", "Take me off your list")


@ANY_STATE
def test_words_that_need_the_end_of_the_turn_count_then(make: Make) -> None:
    talk = make()
    assert not any(isinstance(c, t.OptOut) for c in talk.on(t.CalleePartial("Don't call me")))
    check(talk, talk.on(t.CalleeTurnEnded("Don't call me.")), "phrase", "Don't call me.")


@pytest.mark.parametrize("make", [thinking, Talk.answering, held])
def test_the_model_may_understand_it(make: Make) -> None:
    talk = make()
    check(talk, talk.calls("opt_out", reason="leave me in peace"), "model", "leave me in peace")


def test_the_model_need_not_say_why() -> None:
    talk = thinking()
    assert only(t.OptOut, talk.calls("opt_out")).text


@pytest.mark.parametrize("text", ["Take me off your list", "Don't call me again please"])
def test_it_counts_with_the_beginning_of_speech_or_with_a_turn_that_may_be_over(text: str) -> None:
    certain = text.startswith("Take")
    for event in (t.CalleeSpeechStarted(text), t.CalleeTurnMayEnd(text)):
        commands = Talk.listening().on(event)
        assert any(isinstance(c, t.OptOut) for c in commands) == certain
        assert any(isinstance(c, t.StartDraft) for c in commands) == (
            not certain and isinstance(event, t.CalleeTurnMayEnd)
        )


@ANY_STATE
@pytest.mark.parametrize(
    "event",
    [t.MediaClosed("callee_hung_up", "closed"), t.HangUpRequested("by hand")],
    ids=lambda event: type(event).__name__,
)
def test_words_before_a_hang_up_count_when_nothing_follows(make: Make, event: t.TurnEvent) -> None:
    talk = make()
    talk.on(t.CalleePartial("Stop calling me"))
    commands = talk.on(event)
    assert [c for c in commands if isinstance(c, t.OptOut)] == [t.OptOut("phrase", "Stop calling me")]
    assert kinds(commands).index(t.OptOut) == len(commands) - 2
    assert only(t.HangUp, commands).outcome == "opted_out"


def test_words_that_the_agents_own_hang_up_cuts_off_count() -> None:
    talk = ending()
    talk.on(t.CalleePartial("Stop calling me"))
    assert talk.on(t.PlayoutDrained(talk.generation)) == [
        t.OptOut("phrase", "Stop calling me"),
        t.HangUp("opted_out", None),
    ]


@pytest.mark.parametrize("event", [t.CalleeTurnLost("cut"), t.TranscriberFailed("gone")])
@pytest.mark.parametrize("make", [opening, Talk.listening, thinking, Talk.answering])
def test_words_that_the_transcriber_lost_the_end_of_count(make: Make, event: t.TurnEvent) -> None:
    talk = make()
    talk.on(t.CalleePartial("Stop calling me"))
    check(talk, talk.on(event), "phrase", "Stop calling me")


def test_words_that_were_limited_do_not() -> None:
    talk = Talk.listening()
    talk.on(t.CalleePartial("Don't call me again before nine"))
    assert kinds(talk.on(t.CalleeTurnEnded("Don't call me again before nine"))) == [t.StartReply]
    assert talk.on(t.MediaClosed("callee_hung_up", "closed"))[-1] == t.HangUp("callee_hung_up", "closed")


@pytest.mark.parametrize(
    ("language", "said"),
    [("en", "stop calling me"), ("es", "deje de llamarme"), ("fr", "arrêtez de m'appeler")],
)
def test_it_is_confirmed_in_the_language_that_is_spoken(language: str, said: str) -> None:
    talk = Talk.listening(language=language)
    confirmation = only(t.SpeakLine, talk.on(t.CalleeTurnEnded(said)))
    assert confirmation.text == phrases_of(language).lines["opted_out"]


def test_words_of_every_language_of_the_agent_count() -> None:
    talk = Talk.listening(languages={"es": {}, "fr": {}})
    assert only(t.OptOut, talk.on(t.CalleePartial("Quítenme de su lista"))).source == "phrase"


def test_key_and_words_are_the_agents() -> None:
    talk = Talk.listening(policies={"opt_out_key": "3", "opt_out_phrases": ["no more pigeons"]})
    assert talk.on(t.KeyPressed("9")) == []
    assert only(t.OptOut, talk.on(t.CalleePartial("please no more pigeons on my roof"))).source == "phrase"
    assert only(t.OptOut, Talk.listening(policies={"opt_out_key": "3"}).on(t.KeyPressed("3"))).source == "key"
    assert Talk.listening(policies={"opt_out_key": None}).on(t.KeyPressed("9")) == []


def test_nothing_takes_it_back() -> None:
    talk = thinking(languages={"fr": {}})
    reply = talk.generation
    talk.on(t.KeyPressed("9"))
    confirmation = talk.generation
    after: tuple[t.TurnEvent, ...] = (
        t.CalleePartial("no wait that was a mistake"),
        t.CalleeTurnMayEnd("please do call me"),
        t.CalleeTurnEnded("please do call me"),
        t.CalleeTurnEnded("French please"),
        t.CalleeTurnEnded("stop calling me"),
        t.KeyPressed("9"),
        t.KeyPressed("1"),
        t.ToolCalled(reply, "opt_out", {}),
        t.ToolCalled(reply, "switch_language", {"language": "fr"}),
        t.ToolCalled(confirmation, "switch_language", {"language": "fr"}),
        t.TimerFired("filler"),
        t.TimerFired("failover"),
        t.TimerFired("silence"),
        t.TimerFired("max_duration"),
        t.TimerFired("duration_warning"),
        t.TranscriberFailed("gone"),
        t.CalleeTurnLost("gone"),
        t.PlayoutStarted(reply),
        t.PlayoutDrained(reply),
    )
    assert talk.on(*after) == []
    assert talk.play_out() == [t.HangUp("opted_out", None)]


@pytest.mark.parametrize(
    ("event", "detail"),
    [
        (t.MediaClosed("callee_hung_up", "closed"), "closed"),
        (t.MediaClosed("media_failure", "cut"), "cut"),
        (t.HangUpRequested("by hand"), "by hand"),
        (t.TimerFired("ending"), None),
        (t.TimerFired("reply"), None),
    ],
)
def test_however_the_call_ends_then_it_has_ended_for_that(event: t.TurnEvent, detail: str | None) -> None:
    talk = Talk.answering()
    talk.on(t.KeyPressed("9"))
    assert talk.on(event)[-1] == t.HangUp("opted_out", detail)


def test_a_confirmation_that_cannot_be_spoken_holds_all_the_same() -> None:
    talk = Talk.answering()
    assert only(t.OptOut, talk.on(t.KeyPressed("9"))).source == "key"
    assert only(t.HangUp, talk.fails("tts")).outcome == "opted_out"
