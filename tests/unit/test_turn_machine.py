"""The turn machine by itself: rules one by one, then any order of events."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.conversation import turn_types as t
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.turn import REPAIR_TIMEOUT_S, EndPhrases, TurnMachine

REPLY_TIMEOUT_S = 4.0


def make_machine(**changes: object) -> TurnMachine:
    document = {"name": "a", "business": "B", "opening": "Hello.", "system_prompt": "P.", **changes}
    return TurnMachine(AgentDefinition.model_validate(document), reply_timeout_s=REPLY_TIMEOUT_S)


def listening(**changes: object) -> TurnMachine:
    machine = make_machine(**changes)
    machine.handle(t.CallConnected())
    play_out(machine)
    return machine


def play_out(machine: TurnMachine) -> list[t.TurnCommand]:
    """The present generation is spoken to its end."""
    generation = machine.generation
    commands = machine.handle(t.PlayoutStarted(generation))
    commands += machine.handle(t.ReplyFinished(generation))
    return commands + machine.handle(t.PlayoutDrained(generation))


def kinds(commands: list[t.TurnCommand]) -> list[type]:
    return [type(command) for command in commands if not isinstance(command, t.SetTimer | t.CancelTimer)]


def line(commands: list[t.TurnCommand]) -> t.SpeakLine:
    (found,) = [c for c in commands if isinstance(c, t.SpeakLine)]
    return found


def hang_up(commands: list[t.TurnCommand]) -> t.HangUp:
    (found,) = [c for c in commands if isinstance(c, t.HangUp)]
    return found


def fails(machine: TurnMachine, stage: str = "llm") -> list[t.TurnCommand]:
    return machine.handle(t.ReplyFailed(machine.generation, stage, True, "down"))  # type: ignore[arg-type]


def test_the_opening_comes_first_and_then_the_machine_listens() -> None:
    machine = make_machine()
    commands = machine.handle(t.CallConnected())
    assert (line(commands).kind, line(commands).text) == ("opening", "Hello.")
    assert machine.state == "speaking"
    assert t.SetTimer("silence", 20) in play_out(machine)
    assert machine.state == "listening"
    assert machine.handle(t.CallConnected()) == []


def test_a_turn_is_answered_with_a_new_generation() -> None:
    machine = listening()
    commands = machine.handle(t.CalleeTurnEnded(" Hi "))
    assert t.StartReply(2, "Hi") in commands
    assert t.SetTimer("reply", REPLY_TIMEOUT_S) in commands
    assert machine.state == "thinking"
    assert t.CancelTimer("reply") in machine.handle(t.PlayoutStarted(2))
    assert machine.state == "speaking"


def test_a_barge_in_cancels_clears_and_retires_the_generation() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Hi"))
    machine.handle(t.PlayoutStarted(2))
    commands = machine.handle(t.CalleeSpeechStarted())
    assert kinds(commands) == [t.CancelReply, t.ClearPlayout]
    assert machine.state == "listening"
    for late in (t.ReplySentence(2, "x"), t.PlayoutStarted(2), t.ReplyFinished(2), t.PlayoutDrained(2)):
        assert kinds(machine.handle(late)) == []
    assert kinds(machine.handle(t.ReplyFailed(2, "llm", True, "late"))) == []
    assert machine.state == "listening"


@pytest.mark.parametrize("agent_goodbye", [True, False])
def test_a_goodbye_is_answered_and_ends_the_call(agent_goodbye: bool) -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Thank you, good bye!"))
    machine.handle(t.ReplySentence(2, "Goodbye." if agent_goodbye else "See you."))
    commands = play_out(machine)
    if not agent_goodbye:
        assert line(commands).kind == "farewell"
        commands = play_out(machine)
    assert hang_up(commands).outcome == "completed"


def test_a_goodbye_that_is_only_mentioned_needs_the_agents_too() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Goodbye then, Ava"))
    machine.handle(t.ReplySentence(2, "One more thing."))
    assert kinds(play_out(machine)) == []
    machine.handle(t.CalleeTurnEnded("Goodbye then, Ava"))
    machine.handle(t.ReplySentence(3, "Goodbye."))
    assert hang_up(play_out(machine)).outcome == "completed"


def test_the_agents_goodbye_alone_does_not_end_the_call() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("What do you say at the end"))
    machine.handle(t.ReplySentence(2, "I say goodbye."))
    assert kinds(play_out(machine)) == []


def test_a_barge_in_after_a_goodbye_keeps_the_call() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("bye"))
    machine.handle(t.PlayoutStarted(2))
    machine.handle(t.CalleeSpeechStarted())
    machine.handle(t.CalleeTurnEnded("No wait"))
    machine.handle(t.ReplySentence(machine.generation, "Yes?"))
    assert kinds(play_out(machine)) == []


@pytest.mark.parametrize(
    ("text", "end", "anywhere"),
    [
        ("Okay, bye-bye!", True, True),
        ("GOODBYE", True, True),
        ("good bye", True, True),
        ("goodbye my friend", False, True),
        ("I will bypass it", False, False),
        ("", False, False),
    ],
)
def test_end_phrases(text: str, end: bool, anywhere: bool) -> None:
    phrases = EndPhrases(("goodbye", "bye", "good bye", "bye bye"))
    assert (phrases.at_end(text), phrases.anywhere(text)) == (end, anywhere)


def test_one_failure_is_an_apology_two_in_a_row_are_the_end() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Hi"))
    commands = fails(machine)
    assert line(commands) == t.SpeakLine(3, "apology", line(commands).text, prepared_only=False)
    assert t.SetTimer("reply", REPAIR_TIMEOUT_S) in commands
    play_out(machine)
    machine.handle(t.CalleeTurnEnded("Hi again"))
    assert line(fails(machine)).kind == "failure_farewell"
    assert machine.state == "ending"
    assert hang_up(play_out(machine)).outcome == "provider_failure"


def test_a_good_reply_between_two_failures_forgives() -> None:
    machine = listening()
    for _ in range(3):
        machine.handle(t.CalleeTurnEnded("Hi"))
        assert line(fails(machine)).kind == "apology"
        play_out(machine)
        machine.handle(t.CalleeTurnEnded("Hi"))
        play_out(machine)


def test_a_dead_synthesizer_may_only_use_prepared_lines_and_without_them_hangs_up() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Hi"))
    assert line(fails(machine, "tts")).prepared_only
    assert hang_up(fails(machine, "tts")).outcome == "provider_failure"


def test_the_repair_waits_for_what_still_plays() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Hi"))
    machine.handle(t.ReplySentence(2, "First."))
    machine.handle(t.PlayoutStarted(2))
    commands = fails(machine)
    assert line(commands).kind == "apology"
    assert not any(isinstance(c, t.SetTimer) and c.name == "reply" for c in commands)
    assert t.SetTimer("reply", REPAIR_TIMEOUT_S) in machine.handle(t.PlayoutDrained(2))
    assert t.CancelTimer("reply") in machine.handle(t.PlayoutStarted(3))


def test_a_reply_that_runs_dry_has_the_same_deadline_again() -> None:
    machine = listening()
    machine.handle(t.CalleeTurnEnded("Hi"))
    machine.handle(t.ReplySentence(2, "First."))
    machine.handle(t.PlayoutStarted(2))
    assert t.SetTimer("reply", REPLY_TIMEOUT_S) in machine.handle(t.PlayoutDry(2))
    commands = machine.handle(t.TimerFired("reply"))
    assert t.CancelReply(2) in commands
    assert line(commands).kind == "apology"


def test_a_transcriber_that_fails_before_the_call_connects_is_told_after_it() -> None:
    machine = make_machine()
    assert machine.handle(t.TranscriberFailed("401")) == []
    assert line(machine.handle(t.CallConnected())).kind == "failure_farewell"
    assert hang_up(play_out(machine)) == t.HangUp("provider_failure", "401")


def test_a_socket_that_closes_during_the_farewell_keeps_the_reason_of_the_end() -> None:
    machine = listening()
    machine.handle(t.TimerFired("silence"))
    assert hang_up(machine.handle(t.MediaClosed("callee_hung_up", "closed"))).outcome == "silence"


def test_a_farewell_that_cannot_be_spoken_still_hangs_up() -> None:
    machine = listening()
    machine.handle(t.TimerFired("silence"))
    assert hang_up(fails(machine, "tts")).outcome == "silence"


def test_speech_over_the_farewell_changes_nothing() -> None:
    machine = listening()
    machine.handle(t.TimerFired("silence"))
    assert machine.handle(t.CalleeSpeechStarted()) == []
    assert machine.handle(t.CalleeTurnEnded("wait")) == []


class AnyOrder(RuleBasedStateMachine):
    """A driver that carries commands out, with events that come early, late or twice."""

    @initialize(interruptible=st.booleans(), connect=st.booleans())
    def start(self, interruptible: bool, connect: bool) -> None:
        self.machine = make_machine(
            policies={"interruptible": interruptible}, limits={"max_turns": 6, "max_duration_s": 600}
        )
        self.timers: set[str] = set()
        self.speakable = 0
        """The one generation that may make a sound."""
        self.highest = 0
        self.sounding: int | None = None
        self.queued: list[int] = []
        self.finished: set[int] = set()
        self.hang_ups = 0
        self.connected = False
        if connect:
            self.event(t.CallConnected())

    def event(self, event: t.TurnEvent) -> None:
        was_over = self.hang_ups > 0
        self.connected = self.connected or isinstance(event, t.CallConnected)
        for command in self.machine.handle(event):
            assert not was_over, "a command after the hang-up"
            self.carry_out(command)

    def carry_out(self, command: t.TurnCommand) -> None:
        assert self.hang_ups == 0, "a command after the hang-up"
        match command:
            case t.StartReply(generation=generation) | t.SpeakLine(generation=generation):
                assert generation > self.highest
                assert not self.speakable or self.speakable in self.finished, "two generations speak"
                assert self.connected
                self.highest = self.speakable = generation
                self.queued.append(generation)
            case t.CancelReply(generation=generation):
                self.finished.add(generation)
            case t.ClearPlayout():
                self.queued.clear()
                self.sounding = None
                self.speakable = 0
            case t.SetTimer(name=name, seconds=seconds):
                assert seconds > 0
                self.timers.add(name)
            case t.CancelTimer(name=name):
                self.timers.discard(name)
            case t.HangUp():
                self.hang_ups += 1

    generations = st.integers(-1, 2)

    @rule()
    def connect(self) -> None:
        self.event(t.CallConnected())

    @rule()
    def callee_starts(self) -> None:
        self.event(t.CalleeSpeechStarted())

    @rule(text=st.sampled_from(["hello", "", "ok bye", "goodbye my friend", "what"]))
    def callee_ends(self, text: str) -> None:
        self.event(t.CalleeTurnEnded(text))

    @rule()
    def callee_goes_on(self) -> None:
        self.event(t.CalleePartial())

    @rule(back=st.integers(0, 2), text=st.sampled_from(["Yes.", "Goodbye."]))
    def sentence(self, back: int, text: str) -> None:
        self.event(t.ReplySentence(self.highest - back, text))

    @precondition(lambda self: self.queued and self.sounding is None)
    @rule()
    def sound(self) -> None:
        self.sounding = self.queued[0]
        self.event(t.PlayoutStarted(self.queued[0]))

    @precondition(lambda self: self.sounding is not None and self.sounding not in self.finished)
    @rule()
    def dry(self) -> None:
        generation, self.sounding = self.sounding, None
        self.event(t.PlayoutDry(generation))

    @precondition(lambda self: self.queued and self.queued[-1] not in self.finished)
    @rule()
    def finish(self) -> None:
        self.finished.add(self.queued[-1])
        self.event(t.ReplyFinished(self.queued[-1]))

    @precondition(lambda self: self.queued and self.queued[-1] not in self.finished)
    @rule(stage=st.sampled_from(["llm", "tts"]))
    def fail(self, stage: str) -> None:
        self.finished.add(self.queued[-1])
        self.event(t.ReplyFailed(self.queued[-1], stage, True, "down"))  # type: ignore[arg-type]

    @precondition(lambda self: self.queued and self.queued[0] in self.finished)
    @rule()
    def drain(self) -> None:
        generation = self.queued.pop(0)
        self.sounding = None if self.sounding == generation else self.sounding
        self.event(t.PlayoutDrained(generation))

    @precondition(lambda self: self.highest > 1)
    @rule(
        kind=st.sampled_from([t.PlayoutDry, t.PlayoutDrained, t.ReplyFinished]),
    )
    def late(self, kind: type) -> None:
        if self.highest - 1 not in self.queued:
            self.event(kind(self.highest - 1))

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def timer(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.timers)))
        self.timers.discard(name)
        self.event(t.TimerFired(name))  # type: ignore[arg-type]

    @rule(kind=st.sampled_from([t.TranscriberFailed, t.CalleeTurnLost, t.HangUpRequested]), chance=st.integers(0, 9))
    def rare(self, kind: type, chance: int) -> None:
        if chance == 0:
            self.event(kind("why"))

    @invariant()
    def the_call_never_stalls(self) -> None:
        if not hasattr(self, "machine") or not self.connected or self.hang_ups:
            return
        state = self.machine.state
        if state == "listening":
            assert "silence" in self.timers
        else:
            # Something sounds, or will be drained, or a deadline runs.
            assert "reply" in self.timers or self.sounding is not None or self.queued[0] in self.finished
        if state == "ending":
            assert "ending" in self.timers

    @invariant()
    def the_end_is_told_once(self) -> None:
        if hasattr(self, "machine"):
            assert self.hang_ups == (1 if self.machine.state == "over" else 0)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
