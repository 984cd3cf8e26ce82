"""The turn machine by itself, rule by rule: the talk, its failures, its limits and its ends."""

from __future__ import annotations

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.turn import ENDING_TIMEOUT_S, REPAIR_TIMEOUT_S
from tests.unit.turn_fixtures import OPENING, Talk, causes, kinds, only, spoken

# --- the talk


def test_the_opening_comes_first_and_then_the_machine_listens() -> None:
    talk = Talk()
    assert talk.on(t.CallConnected()) == [t.SpeakLine(1, "opening", OPENING)]
    assert talk.state == "speaking"
    assert talk.timers["max_duration"] == 600
    assert talk.timers["duration_warning"] == 570
    assert talk.play_out() == []
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})
    assert talk.on(t.CallConnected()) == [], "once"


def test_before_the_call_is_connected_only_its_end_means_anything() -> None:
    talk = Talk()
    meaningless = (
        t.CalleeSpeechStarted("stop"),
        t.CalleePartial("stop calling me"),
        t.CalleeTurnEnded("hello"),
        t.KeyPressed("9"),
        t.TimerFired("silence"),
        t.PlayoutDrained(0),
    )
    assert talk.on(*meaningless) == []
    assert talk.timers == {}
    assert talk.on(t.MediaClosed("media_failure", "nobody came"))[-1] == t.HangUp("media_failure", "nobody came")


def test_a_turn_is_answered_with_a_new_generation() -> None:
    talk = Talk.listening()
    before = talk.generation
    reply = only(t.StartReply, talk.on(t.CalleeTurnEnded(" Hi ")))
    assert reply == t.StartReply(talk.generation, "Hi")
    assert reply.generation > before
    assert (talk.state, talk.waits) == ("thinking", {"filler": 1.2, "failover": 2.5, "reply": 6})
    assert talk.speaks("Hello.") == []
    assert (talk.state, talk.waits) == ("speaking", {})


def test_a_turn_without_words_is_waited_out() -> None:
    talk = Talk.listening()
    assert talk.on(t.CalleeSpeechStarted(), t.CalleeTurnEnded("  ")) == []
    assert (talk.state, talk.waits, talk.machine.callee_turns) == ("listening", {"silence": 8}, 0)


def test_whatever_comes_late_of_an_abandoned_reply_is_ignored() -> None:
    talk = Talk.answering()
    old = talk.generation
    talk.on(t.CalleePartial("wait"))
    late: tuple[t.TurnEvent, ...] = (
        t.ReplySentence(old, "Goodbye."),
        t.ToolCalled(old, "opt_out", {}),
        t.ToolCalled(old, "end_call", {}),
        t.ReplyFailed(old, "llm", True, "late", has_alternative=True),
        t.PlayoutStarted(old),
        t.PlayoutDry(old),
        t.ReplyFinished(old),
        t.PlayoutDrained(old),
    )
    for event in late:
        assert talk.on(event) == []
        assert (talk.state, talk.waits) == ("listening", {"silence": 8})


def test_news_of_cleared_speech_takes_no_deadline_from_the_next_reply() -> None:
    """The old reply was told to sound after it was cleared."""
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Where can I park"))
    old = talk.generation
    talk.on(t.CalleePartial("no listen"), t.PlayoutStarted(old), t.CalleeTurnEnded("no listen"))
    assert (talk.state, talk.waits) == ("thinking", {"filler": 1.2, "failover": 2.5, "reply": 6})


# --- goodbyes


@pytest.mark.parametrize("agent_goodbye", [True, False])
def test_a_goodbye_is_answered_and_ends_the_call(agent_goodbye: bool) -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Thank you, good bye!"))
    commands = talk.play_out("Goodbye." if agent_goodbye else "You are welcome.")
    if not agent_goodbye:
        assert (spoken(commands), talk.state) == ("farewell", "ending")
        commands = talk.play_out()
    assert only(t.HangUp, commands).outcome == "completed"


def test_a_goodbye_that_is_only_mentioned_needs_the_agents_too() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Goodbye then, Ava"))
    assert talk.play_out("One more thing.") == []
    talk.on(t.CalleeTurnEnded("Goodbye then, Ava"))
    assert only(t.HangUp, talk.play_out("Goodbye.")).outcome == "completed"


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ("Do you take care of small children", "We take care of children of any age. Would you like an appointment?"),
        ("Ok thanks see you tomorrow", "See you tomorrow at ten. One more thing, is your insurance the same?"),
        ("Can I come in and see you tomorrow", "We are open tomorrow from nine. What is your name?"),
        ("Can I come in and see you tomorrow", "We are open tomorrow from nine."),
        ("When should I see you then", "On Monday. See you then."),
        ("Okay, goodbye", 'Before you go: does "Tuesday at ten" suit you?'),
    ],
)
def test_nobody_hangs_up_on_a_question(said: str, reply: str) -> None:
    """Neither on the agent's own, nor because the callee's sounds like a goodbye."""
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded(said))
    assert talk.play_out(reply) == []
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})
    talk.on(t.CalleeTurnEnded("Yes, the same"))
    assert talk.play_out("Good.") == [], "and the goodbye is out of date"


def test_the_model_cannot_end_the_call_with_a_question() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Fine"))
    talk.calls("end_call")
    assert talk.play_out("Goodbye! Or is there anything else?") == []
    talk.on(t.CalleeTurnEnded("Yes, parking"))
    assert talk.play_out("Parking is free.") == []


def test_a_callee_who_said_goodbye_and_hangs_up_on_a_question_has_completed_the_call() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Okay, goodbye"))
    talk.play_out("Is there anything else?")
    assert talk.on(t.MediaClosed("callee_hung_up", "closed"))[-1] == t.HangUp("completed", "closed")


def test_the_agents_goodbye_alone_does_not_end_the_call() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("What do you say at the end"))
    assert talk.play_out("I say goodbye.") == []


def test_an_interruption_after_a_goodbye_keeps_the_call() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("bye"))
    talk.speaks("Goodbye.")
    talk.on(t.CalleePartial("no wait"), t.CalleeTurnEnded("no wait"))
    assert talk.play_out("Yes?") == []


@pytest.mark.parametrize(("text", "farewell"), [("Goodbye.", False), ("That is all.", True), ("", True)])
def test_the_model_may_end_the_call_but_not_without_a_farewell(text: str, farewell: bool) -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Fine"))
    assert talk.calls("end_call") == []
    commands = talk.play_out(text)
    if farewell:
        assert spoken(commands) == "farewell"
        commands = talk.play_out()
    assert only(t.HangUp, commands).outcome == "completed"


@pytest.mark.parametrize("name", ["transfer", "", "switch_language"])
def test_a_tool_that_this_call_does_not_have_is_refused(name: str) -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Fine"))
    assert talk.calls(name, language="fr") == [t.NoteCause(talk.generation, f"tool_refused: {name}")]
    assert talk.state == "thinking"


@pytest.mark.parametrize("language", [["es"], {"language": "es"}, 7, None, True, "ES", ""])
def test_arguments_may_be_anything(language: object) -> None:
    talk = Talk.listening(languages={"es": {}})
    talk.on(t.CalleeTurnEnded("Fine"))
    assert talk.calls("switch_language", language=language) == [
        t.NoteCause(talk.generation, "tool_refused: switch_language")
    ]
    assert talk.machine.language == "en"


# --- answers without words


def says_nothing(talk: Talk) -> list[t.TurnCommand]:
    """The model's answer is over, and nothing of it could be heard."""
    return talk.on(t.ReplyFinished(talk.generation), t.PlayoutDrained(talk.generation))


@pytest.mark.parametrize(("name", "language"), [("transfer_call", None), ("switch_language", "en"), (None, None)])
def test_an_answer_that_says_nothing_is_asked_for_once_more_in_words(name: str | None, language: str | None) -> None:
    talk = Talk.listening(languages={"es": {}})
    talk.on(t.CalleeTurnEnded("Put me through to a person"))
    if name is not None:
        talk.calls(name, language=language)
    else:
        talk.on(t.ReplySentence(talk.generation, " "))
    silent = talk.generation
    assert says_nothing(talk) == [
        t.NoteCause(silent, "reply_without_words"),
        t.StartReply(talk.generation, None, in_words=True),
    ]
    assert (talk.state, talk.generation > silent + 1) == ("thinking", True), "between them is the number of a filler"
    assert talk.play_out("I cannot do that.") == []
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})


def test_then_it_is_a_failure_like_another() -> None:
    talk = Talk.listening()
    for line in ("apology", "failure_farewell"):
        talk.on(t.CalleeTurnEnded("Put me through to a person"))
        assert only(t.StartReply, says_nothing(talk)).in_words
        talk.calls("transfer_call")
        silent = talk.generation
        commands = says_nothing(talk)
        assert (spoken(commands), causes(commands)) == (line, ["reply_without_words", "llm_failed"])
        assert t.CancelReply(silent) in commands
        end = talk.play_out()
    assert only(t.HangUp, end).outcome == "provider_failure"


def test_it_may_be_asked_for_once_in_every_turn() -> None:
    talk = Talk.listening()
    for _ in range(3):
        talk.on(t.CalleeTurnEnded("Put me through to a person"))
        assert only(t.StartReply, says_nothing(talk)).in_words
        talk.play_out("I cannot do that.")


def test_words_that_waited_are_an_answer_to_silence() -> None:
    talk = Talk.listening(policies={"interruptible": False})
    talk.on(t.CalleeTurnEnded("Put me through"), t.CalleeTurnEnded("to a person"))
    assert says_nothing(talk) == [t.StartReply(talk.generation, "to a person")]


def test_the_model_may_end_the_call_without_a_word() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Fine"))
    talk.calls("end_call")
    assert spoken(says_nothing(talk)) == "farewell"


# --- failures


def test_one_failure_is_an_apology_two_in_a_row_are_the_end() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Hi"))
    failed = talk.generation
    commands = talk.fails()
    assert commands[:2] == [t.NoteCause(failed, "llm_failed"), t.CancelReply(failed)]
    apology = only(t.SpeakLine, commands)
    assert (apology.kind, apology.generation, apology.prepared_only) == ("apology", failed + 1, False)
    assert talk.waits == {"reply": REPAIR_TIMEOUT_S}
    talk.play_out()
    talk.on(t.CalleeTurnEnded("Hi again"))
    assert spoken(talk.fails()) == "failure_farewell"
    assert talk.state == "ending"
    assert only(t.HangUp, talk.play_out()).outcome == "provider_failure"


def test_a_good_reply_between_two_failures_forgives() -> None:
    talk = Talk.listening()
    for _ in range(3):
        talk.on(t.CalleeTurnEnded("Hi"))
        assert spoken(talk.fails()) == "apology"
        talk.play_out()
        talk.on(t.CalleeTurnEnded("Hi"))
        assert talk.play_out("Hello.") == []


def test_a_dead_synthesizer_may_only_use_prepared_lines_and_without_them_hangs_up() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Hi"))
    assert only(t.SpeakLine, talk.fails("tts")).prepared_only
    assert only(t.HangUp, talk.fails("tts")).outcome == "provider_failure"


def test_an_apology_forgets_the_goodbye_that_was_not_answered() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("bye"))
    assert spoken(talk.fails()) == "apology"
    assert talk.play_out() == []
    assert talk.state == "listening"


def test_a_transcriber_that_fails_before_the_call_connects_is_told_after_it() -> None:
    talk = Talk()
    assert talk.on(t.TranscriberFailed("401")) == []
    commands = talk.on(t.CallConnected())
    assert (spoken(commands), causes(commands)) == ("failure_farewell", ["stt_failed"])
    assert only(t.HangUp, talk.play_out()) == t.HangUp("provider_failure", "401")


def test_a_transcriber_that_fails_in_the_call_ends_it_with_words() -> None:
    talk = Talk.answering()
    old = talk.generation
    commands = talk.on(t.TranscriberFailed("gone"))
    assert t.ClearPlayout(old) in commands
    assert (spoken(commands), causes(commands), talk.state) == ("failure_farewell", ["stt_failed"], "ending")
    assert talk.on(t.TranscriberFailed("gone twice")) == []
    assert only(t.HangUp, talk.play_out()) == t.HangUp("provider_failure", "gone")


def test_a_turn_that_was_lost_is_asked_for_again() -> None:
    talk = Talk.listening()
    talk.on(t.CalleePartial("I would"))
    commands = talk.on(t.CalleeTurnLost("the socket was cut"))
    assert (spoken(commands), causes(commands)) == ("apology", ["stt_failed"])
    talk.play_out()
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})


def test_a_turn_that_was_lost_while_the_agent_speaks_costs_nothing() -> None:
    talk = Talk.answering()
    assert talk.on(t.CalleeTurnLost("the socket was cut")) == []
    assert talk.state == "speaking"


# --- silence and limits


def test_silence_is_asked_about_and_then_ends_the_call() -> None:
    talk = Talk.listening(limits={"silence_timeout_s": 5, "silence_prompts": 2})
    for _ in range(2):
        assert talk.waits == {"silence": 5}
        assert spoken(talk.fire("silence")) == "still_there"
        talk.play_out()
    assert spoken(talk.fire("silence")) == "farewell"
    assert talk.timers["ending"] == ENDING_TIMEOUT_S
    assert only(t.HangUp, talk.play_out()).outcome == "silence"


def test_words_of_the_callee_begin_the_count_anew() -> None:
    talk = Talk.listening(limits={"silence_prompts": 1})
    for _ in range(3):
        assert spoken(talk.fire("silence")) == "still_there"
        talk.play_out()
        talk.on(t.CalleeTurnEnded("Yes, I am here"))
        talk.play_out("Good.")


def test_a_noise_is_no_answer_to_the_question_who_is_there() -> None:
    talk = Talk.listening(limits={"silence_prompts": 1})
    talk.fire("silence")
    talk.play_out()
    talk.on(t.CalleeSpeechStarted(), t.CalleeTurnEnded(""))
    assert spoken(talk.fire("silence")) == "farewell"


def test_without_prompts_silence_ends_the_call_at_once() -> None:
    talk = Talk.listening(limits={"silence_prompts": 0})
    assert spoken(talk.fire("silence")) == "farewell"


def test_a_callee_who_speaks_is_not_asked_whether_somebody_is_there() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeSpeechStarted("I"))
    assert talk.fire("silence") == []
    assert talk.waits == {"silence": 8}, "but a turn whose end is never told is waited for only once more"
    assert spoken(talk.fire("silence")) == "still_there"


@pytest.mark.parametrize(
    "event", [t.CalleePartial("I"), t.CalleeSpeechStarted(), t.KeyPressed("5"), t.CalleeTurnEnded("")]
)
def test_whatever_the_callee_does_moves_the_silence(event: t.TurnEvent) -> None:
    talk = Talk.listening()
    del talk.timers["silence"]
    talk.on(event)
    assert talk.timers["silence"] == 8


def test_the_end_is_announced_when_nobody_speaks() -> None:
    talk = Talk.listening()
    assert spoken(talk.fire("duration_warning")) == "duration_warning"
    assert talk.play_out() == []
    assert talk.state == "listening"


def test_the_announcement_waits_for_the_end_of_the_agents_speech() -> None:
    talk = Talk.answering()
    assert talk.fire("duration_warning") == []
    assert spoken(talk.play_out()) == "duration_warning"
    assert talk.play_out() == [], "once"


def test_the_announcement_waits_for_the_answer_when_the_callee_speaks() -> None:
    talk = Talk.listening()
    talk.on(t.CalleePartial("And what about"))
    assert talk.fire("duration_warning") == []
    talk.on(t.CalleeTurnEnded("And what about parking"))
    assert spoken(talk.play_out("It is free.")) == "duration_warning"


def test_an_announcement_that_is_late_comes_before_the_answer() -> None:
    talk = Talk.listening()
    talk.on(t.CalleePartial("And what about"))
    talk.fire("duration_warning")
    assert talk.timers["duration_warning"] == 15, "half of what is left"
    draft = only(t.StartDraft, talk.on(t.CalleeTurnMayEnd("And what about parking"))).draft
    assert talk.fire("duration_warning") == []
    assert "duration_warning" not in talk.timers
    commands = talk.on(t.CalleeTurnEnded("And what about parking"))
    assert (spoken(commands), t.DropDraft(draft) in commands) == ("duration_warning", True)
    assert only(t.StartReply, talk.play_out()).user_text == "And what about parking"
    assert talk.play_out("It is free.") == [], "once"


def test_words_over_the_late_announcement_belong_to_what_is_answered() -> None:
    for over in (t.CalleeTurnEnded("Thursday"), t.CalleePartial("and on Thursday")):
        talk = Talk.listening()
        talk.on(t.CalleePartial("And what"))
        talk.fire("duration_warning")
        talk.fire("duration_warning")
        talk.on(t.CalleeTurnEnded("And what about parking"))
        talk.speaks()
        talk.on(over)
        end = t.PlayoutDrained(talk.generation) if talk.state == "speaking" else t.CalleeTurnEnded("Thursday")
        assert only(t.StartReply, talk.on(end)).user_text == "And what about parking Thursday"


def test_a_late_announcement_does_not_hold_up_a_goodbye() -> None:
    talk = Talk.listening()
    talk.on(t.CalleePartial("Well"))
    talk.fire("duration_warning")
    talk.fire("duration_warning")
    assert kinds(talk.on(t.CalleeTurnEnded("Well, goodbye"))) == [t.StartReply]
    assert only(t.HangUp, talk.play_out("Goodbye.")).outcome == "completed"


def test_the_announcement_comes_when_what_the_callee_said_was_nothing() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeSpeechStarted())
    talk.fire("duration_warning")
    assert spoken(talk.on(t.CalleeTurnEnded(""))) == "duration_warning"
    assert (talk.play_out(), talk.state) == ([], "listening")


def test_an_announcement_that_was_made_in_time_is_not_made_again() -> None:
    talk = Talk.answering()
    talk.fire("duration_warning")
    assert spoken(talk.play_out()) == "duration_warning"
    assert "duration_warning" not in talk.timers


@pytest.mark.parametrize("limits", [{"duration_warning_s": 0}, {"duration_warning_s": 600, "max_duration_s": 60}])
def test_no_announcement_where_none_is_wanted_or_the_call_is_too_short(limits: dict[str, float]) -> None:
    assert "duration_warning" not in Talk.listening(limits=limits).timers


def test_the_longest_call_ends_with_a_farewell_whoever_speaks() -> None:
    talk = Talk.answering()
    old = talk.generation
    commands = talk.fire("max_duration")
    assert kinds(commands) == [t.CancelReply, t.ClearPlayout, t.SpeakLine]
    assert (commands[0], spoken(commands)) == (t.CancelReply(old), "farewell")
    assert only(t.HangUp, talk.play_out()).outcome == "max_duration"


def test_after_the_last_turn_comes_the_farewell() -> None:
    talk = Talk.listening(limits={"max_turns": 2})
    for _ in range(2):
        talk.on(t.CalleeTurnEnded("And then"))
        talk.play_out("Then this.")
    assert talk.on(t.CalleeTurnMayEnd("And then")) == [], "no draft for a turn that is not answered"
    assert spoken(talk.on(t.CalleeTurnEnded("And then"))) == "farewell"
    assert only(t.HangUp, talk.play_out()).outcome == "max_turns"


# --- ends


def test_a_person_may_hang_up_at_any_time() -> None:
    talk = Talk.answering()
    old = talk.generation
    commands = talk.on(t.HangUpRequested("by hand"))
    assert commands == [t.CancelReply(old), t.ClearPlayout(old), t.HangUp("agent_hung_up", "by hand")]
    assert (talk.state, talk.timers) == ("over", {})


def test_after_the_hang_up_nothing_more_comes() -> None:
    talk = Talk.listening()
    talk.on(t.HangUpRequested("by hand"))
    after: tuple[t.TurnEvent, ...] = (
        t.CallConnected(),
        t.CalleeTurnEnded("stop calling me"),
        t.KeyPressed("9"),
        t.TimerFired("silence"),
        t.TimerFired("max_duration"),
        t.TranscriberFailed("gone"),
        t.MediaClosed("callee_hung_up", "closed"),
    )
    assert talk.on(*after) == []
    assert (talk.state, talk.timers) == ("over", {})


def test_a_callee_who_hangs_up_has_hung_up() -> None:
    talk = Talk.answering()
    commands = talk.on(t.MediaClosed("callee_hung_up", "closed"))
    assert commands[-1] == t.HangUp("callee_hung_up", "closed")


def test_a_callee_who_said_goodbye_and_hangs_up_has_completed_the_call() -> None:
    talk = Talk.listening()
    talk.on(t.CalleeTurnEnded("Okay, goodbye then"))
    assert talk.on(t.MediaClosed("callee_hung_up", "closed"))[-1] == t.HangUp("completed", "closed")


def test_a_socket_that_closes_during_the_farewell_keeps_the_reason_of_the_end() -> None:
    talk = Talk.listening(limits={"silence_prompts": 0})
    talk.fire("silence")
    assert only(t.HangUp, talk.on(t.MediaClosed("callee_hung_up", "closed"))) == t.HangUp("silence", "closed")


def test_a_farewell_that_cannot_be_spoken_still_hangs_up() -> None:
    talk = Talk.listening(limits={"silence_prompts": 0})
    talk.fire("silence")
    assert only(t.HangUp, talk.fails("tts", other=True)).outcome == "silence"


@pytest.mark.parametrize("timer", ["ending", "reply"])
def test_a_farewell_that_never_comes_or_never_ends_still_hangs_up(timer: t.TimerName) -> None:
    talk = Talk.listening(limits={"silence_prompts": 0})
    talk.fire("silence")
    if timer == "ending":
        talk.speaks()
    assert only(t.HangUp, talk.fire(timer)).outcome == "silence"


@pytest.mark.parametrize("outcome", ["max_duration", "max_turns", "completed", "provider_failure"])
def test_speech_over_the_farewell_changes_nothing(outcome: str) -> None:
    talk = Talk.listening(limits={"max_turns": 1})
    if outcome == "max_duration":
        talk.fire("max_duration")
    elif outcome == "provider_failure":
        talk.on(t.TranscriberFailed("gone"))
    else:
        talk.on(t.CalleeTurnEnded("Bye" if outcome == "completed" else "And then"))
        talk.play_out("I see.")
        if outcome == "max_turns":
            talk.on(t.CalleeTurnEnded("And then"))
    assert talk.state == "ending"
    talk.speaks()
    assert talk.on(t.CalleeSpeechStarted("wait"), t.CalleePartial("wait wait"), t.CalleeTurnEnded("wait wait")) == []
    assert talk.on(t.TimerFired("max_duration")) == []
    assert talk.state == "ending"
    assert only(t.HangUp, talk.play_out()).outcome == outcome


def silence_farewell(*, heard: bool = True, **changes: object) -> Talk:
    talk = Talk.listening(limits={"silence_prompts": 0}, **changes)
    assert spoken(talk.fire("silence")) == "farewell"
    if heard:
        talk.speaks()
    return talk


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("text", ["hello", "wait", "sorry I was looking for my card"])
def test_a_callee_who_is_back_during_the_silence_farewell_calls_the_end_off(heard: bool, text: str) -> None:
    talk = silence_farewell(heard=heard)
    farewell = talk.generation
    assert talk.on(t.CalleePartial(text)) == [t.CancelReply(farewell), t.ClearPlayout(farewell)]
    assert (talk.state, talk.waits) == ("listening", {"silence": 8})
    assert talk.on(t.PlayoutDrained(farewell), t.TimerFired("ending")) == []
    assert only(t.StartReply, talk.on(t.CalleeTurnEnded(text))).user_text == text
    assert talk.play_out("Take your time.") == []
    assert talk.on(t.MediaClosed("callee_hung_up", "closed"))[-1] == t.HangUp("callee_hung_up", "closed")


@pytest.mark.parametrize("text", ["", "mhm", "okay, thanks", "okay bye"])
def test_what_says_nothing_and_a_goodbye_do_not(text: str) -> None:
    talk = silence_farewell()
    assert talk.on(t.CalleeSpeechStarted(text), t.CalleePartial(text), t.CalleeTurnEnded(text)) == []
    assert only(t.HangUp, talk.play_out()).outcome == "silence"


def test_a_callee_who_is_back_when_the_time_is_over_is_too_late() -> None:
    talk = silence_farewell()
    assert talk.fire("max_duration") == []
    assert talk.on(t.CalleeTurnEnded("I am here")) == []
    assert only(t.HangUp, talk.play_out()).outcome == "max_duration"


def test_where_nobody_may_interrupt_the_farewell_is_said_to_its_end_and_the_call_goes_on() -> None:
    talk = silence_farewell(policies={"interruptible": False})
    assert talk.on(t.CalleePartial("I am here"), t.CalleeTurnEnded("I am here")) == []
    assert (talk.state, "ending" in talk.timers) == ("speaking", False)
    assert only(t.StartReply, talk.play_out()).user_text == "I am here"
