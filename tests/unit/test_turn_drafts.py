"""The turn machine: drafts of answers, and changes of language."""

from __future__ import annotations

from typing import get_args

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import Language, phrases_of
from tests.unit.turn_fixtures import Talk, kinds, only, spoken


def drafted(text: str = "Where can I park", **changes: object) -> tuple[Talk, int]:
    talk = Talk.listening(**changes)
    return talk, only(t.StartDraft, talk.on(t.CalleeTurnMayEnd(text))).draft


def test_a_turn_that_may_be_over_starts_a_draft_and_nothing_else() -> None:
    talk = Talk.listening()
    assert talk.on(t.CalleeTurnMayEnd(" Where can I park ")) == [t.StartDraft(1, "Where can I park")]
    assert (talk.state, talk.waits, talk.machine.callee_turns) == ("listening", {"silence": 8}, 0)


@pytest.mark.parametrize("final", ["Where can I park", "where can I park?", " Where, can I PARK. "])
def test_the_same_words_make_it_the_reply(final: str) -> None:
    talk, draft = drafted()
    assert talk.on(t.CalleeTurnEnded(final)) == [t.StartReply(talk.generation, final.strip(), draft)]


@pytest.mark.parametrize("final", ["Where can I park my car", "Where can I", "Where can I bark"])
def test_other_words_drop_it(final: str) -> None:
    talk, draft = drafted()
    assert talk.on(t.CalleeTurnEnded(final)) == [t.DropDraft(draft), t.StartReply(talk.generation, final)]


def test_a_turn_that_goes_on_drops_it() -> None:
    talk, draft = drafted()
    assert talk.on(t.CalleeTurnResumed()) == [t.DropDraft(draft)]
    assert talk.on(t.CalleeTurnEnded("Where can I park")) == [t.StartReply(talk.generation, "Where can I park")]


def test_another_guess_replaces_it() -> None:
    talk, first = drafted("Where")
    commands = talk.on(t.CalleeTurnMayEnd("Where can I park"))
    second = only(t.StartDraft, commands).draft
    assert commands == [t.DropDraft(first), t.StartDraft(second, "Where can I park")]
    assert second > first
    assert only(t.StartReply, talk.on(t.CalleeTurnEnded("Where can I park"))).draft == second


def test_it_is_used_once() -> None:
    talk, _ = drafted()
    talk.on(t.CalleeTurnEnded("Where can I park"))
    talk.play_out("Behind the building.")
    assert talk.on(t.CalleeTurnEnded("Where can I park")) == [t.StartReply(talk.generation, "Where can I park")]


@pytest.mark.parametrize("text", ["", "  "])
def test_nothing_said_is_nothing_to_draft(text: str) -> None:
    assert Talk.listening().on(t.CalleeTurnMayEnd(text)) == []


def test_a_turn_without_words_drops_the_draft_of_the_words_that_were_none() -> None:
    talk, draft = drafted("hm")
    assert talk.on(t.CalleeTurnEnded("")) == [t.DropDraft(draft)]


def test_an_agent_may_do_without() -> None:
    talk = Talk.listening(policies={"speculate": False})
    assert talk.on(t.CalleeTurnMayEnd("Where can I park")) == []
    assert kinds(talk.on(t.CalleeTurnEnded("Where can I park"))) == [t.StartReply]


def test_no_draft_while_the_agent_has_the_turn() -> None:
    talk = Talk.answering()
    assert talk.on(t.CalleeTurnMayEnd("okay")) == []
    talk.on(t.CalleeTurnEnded("Thursday"))
    assert talk.state == "speaking"


def test_words_that_interrupt_may_be_drafted_at_once() -> None:
    talk = Talk.answering()
    commands = talk.on(t.CalleeTurnMayEnd("and what about parking"))
    assert kinds(commands) == [t.CancelReply, t.ClearPlayout, t.StartDraft]


@pytest.mark.parametrize(
    "event",
    [
        t.MediaClosed("callee_hung_up", "closed"),
        t.HangUpRequested("by hand"),
        t.TimerFired("max_duration"),
        t.TranscriberFailed("gone"),
        t.CalleeTurnLost("gone"),
        t.KeyPressed("9"),
        t.CalleePartial("take me off your list"),
        t.CalleeTurnEnded("en français s'il vous plaît"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_it_does_not_outlive_the_turn_that_it_was_made_for(event: t.TurnEvent) -> None:
    talk, draft = drafted("en français s'il vous plaît", languages={"fr": {}})
    assert t.DropDraft(draft) in talk.on(event)


def test_no_draft_outlives_a_call_that_ends_for_silence() -> None:
    talk, draft = drafted(limits={"silence_prompts": 0})
    talk.on(t.TimerFired("silence"))  # a turn whose end is not told is given some more time
    talk.on(t.TimerFired("silence"))
    assert talk.state == "ending"
    assert t.DropDraft(draft) not in talk.play_out(), "it was dropped before"


# --- languages

THREE = {"es": {}, "fr": {"farewell": "Adieu."}}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("En español, por favor", "es"),
        ("Do you speak Spanish?", "es"),
        ("Je ne parle pas anglais", "fr"),
        ("French, please", "fr"),
    ],
)
def test_a_language_is_switched_to_on_request(text: str, language: Language) -> None:
    talk = Talk.listening(languages=THREE)
    commands = talk.on(t.CalleeTurnEnded(text))
    assert commands == [t.SwitchLanguage(language), t.StartReply(talk.generation, text)], "and answered in it"
    assert talk.machine.language == language


def test_only_languages_of_the_agent_are_switched_to_and_only_from_another_one() -> None:
    talk = Talk.listening(languages={"es": {}})
    assert kinds(talk.on(t.CalleeTurnEnded("French, please"))) == [t.StartReply]
    talk.play_out("I only speak English or Spanish.")
    assert kinds(talk.on(t.CalleeTurnEnded("English, please"))) == [t.StartReply]
    assert talk.machine.language == "en"


def test_the_callee_may_switch_back() -> None:
    talk = Talk.listening(languages=THREE)
    talk.on(t.CalleeTurnEnded("En español, por favor"))
    talk.play_out("Claro.")
    assert t.SwitchLanguage("en") in talk.on(t.CalleeTurnEnded("¿Habla usted inglés?"))


def test_the_model_may_switch_and_says_it_again_in_that_language() -> None:
    talk = Talk.listening(languages=THREE)
    talk.on(t.CalleeTurnEnded("Quisiera cambiar mi cita"))
    old = talk.generation
    commands = talk.calls("switch_language", language="es")
    assert commands == [
        t.CancelReply(old),
        t.ClearPlayout(old),
        t.SwitchLanguage("es"),
        t.StartReply(talk.generation, None),
    ]
    assert (talk.state, talk.waits) == ("thinking", {"filler": 1.2, "failover": 2.5, "reply": 6})
    assert talk.calls("switch_language", language="es") == [], "it is spoken already"
    assert talk.machine.callee_turns == 1


@pytest.mark.parametrize("language", ["de", "", None, 7])
def test_the_model_cannot_switch_to_what_the_agent_does_not_speak(language: object) -> None:
    talk = Talk.listening(languages=THREE)
    talk.on(t.CalleeTurnEnded("Guten Tag"))
    assert kinds(talk.calls("switch_language", language=language)) == [t.NoteCause]
    assert talk.machine.language == "en"


def test_lines_are_in_the_language_that_is_spoken() -> None:
    talk = Talk.listening(languages=THREE, limits={"silence_prompts": 1})
    talk.on(t.CalleeTurnEnded("French, please"))
    talk.play_out("Bien sûr.")
    assert only(t.SpeakLine, talk.fire("silence")).text == phrases_of("fr").lines["still_there"]
    talk.play_out()
    farewell = talk.fire("silence")
    assert (spoken(farewell), only(t.SpeakLine, farewell).text) == ("farewell", "Adieu."), "or the agent's own"


@pytest.mark.parametrize("language", get_args(Language))
def test_a_goodbye_in_the_language_of_the_agent_ends_the_call(language: Language) -> None:
    goodbyes = {"en": "Goodbye!", "es": "Gracias, adiós.", "fr": "Merci, au revoir."}
    talk = Talk.listening(language=language)
    talk.on(t.CalleeTurnEnded(goodbyes[language]))
    assert only(t.HangUp, talk.play_out(goodbyes[language])).outcome == "completed"
