"""The turn machine under any order of events: a driver that carries its commands out, and what always holds."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serve_app.conversation import turn_types as t
from serve_app.conversation.phrases import normalise_words
from serve_app.conversation.turn import TurnMachine
from serve_app.errors import Stage
from tests.unit.turn_fixtures import agent_with

WORDS = [
    *("", "mhm", "okay", "yes", "hello", "Thursday", "stop", "wait a second", "and what about parking"),
    *("no", "no problem", "that makes", "can I see you tomorrow", "see you tomorrow"),
    *("ok bye", "goodbye my friend", "in French please", "in English please", "don't call me before nine"),
]
OPT_OUTS = ["stop calling me", "don't call me", "take me off your list"]
TOOLS = ["end_call", "switch_language", "transfer", "opt_out"]
json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from(["fr", "en"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
ends: st.SearchStrategy[t.TurnEvent | None] = st.sampled_from(
    [
        *[None] * 12,
        t.KeyPressed("9"),
        t.HangUpRequested("by hand"),
        t.MediaClosed("callee_hung_up", "closed"),
        t.TimerFired("max_duration"),
        t.TranscriberFailed("gone"),
    ]
)
stages: st.SearchStrategy[Stage] = st.sampled_from(["llm", "tts"])


class AnyOrder(RuleBasedStateMachine):
    """The playout is a queue of generations, of which the first may sound. Events come early, late or twice."""

    @initialize(
        begin=st.sampled_from(["unconnected", "opening", "listening", "listening"]),
        interruptible=st.sampled_from([True, True, True, False]),
        opening=st.booleans(),
        min_words=st.sampled_from([0, 0, 0, 1, 2]),
        speculate=st.booleans(),
    )
    def start(self, begin: str, interruptible: bool, opening: bool, min_words: int, speculate: bool) -> None:
        policies: dict[str, Any] = {
            "interruptible": interruptible,
            "opening_interruptible": opening,
            "interruption": {"min_words": min_words},
            "speculate": speculate,
        }
        self.interruptible, self.opening_interruptible = interruptible, opening
        limits = {"max_turns": 6, "silence_prompts": 1}
        self.machine = TurnMachine(agent_with(policies=policies, limits=limits, languages={"fr": {}}))
        self.timers: set[t.TimerName] = set()
        self.highest = 0
        """Of the generations that may speak."""
        self.queued: list[int] = []
        self.lines: dict[int, t.LineKind] = {}
        self.sounding: int | None = None
        self.finished: set[int] = set()
        self.cleared: set[int] = set()
        self.sounded: set[int] = set()
        self.silence_ending = False
        """The last line is for a callee who says nothing."""
        self.switched = 0
        """Changes of language by the model since the callee's last turn."""
        self.failed_over: set[tuple[int, Stage]] = set()
        self.held = False
        self.draft: tuple[int, str] | None = None
        self.drafts = 0
        self.opted_out = False
        self.hang_up: t.HangUp | None = None
        self.connected = False
        if begin != "unconnected":
            self.event(t.CallConnected())
        if begin == "listening":
            self.sound()
            self.finish()
            self.drain()

    # --- carrying commands out

    def event(self, event: t.TurnEvent) -> list[t.TurnCommand]:
        self.connected = self.connected or isinstance(event, t.CallConnected)
        self.latest = event
        before = self.machine.generation
        commands = self.machine.handle(event)
        for command in commands:
            self.carry_out(command)
        assert self.machine.generation >= before
        return commands

    def carry_out(self, command: t.TurnCommand) -> None:
        assert self.hang_up is None, "a command after the hang-up"
        match command:
            case t.StartReply():
                self.begin(command.generation)
                self.switched = 0 if command.user_text is not None else self.switched
                assert not self.opted_out
                self.use_draft(command)
            case t.SpeakLine(before=int()):
                self.fill(command)
            case t.SpeakLine():
                self.begin(command.generation)
                assert not self.opted_out or command.kind == "opted_out"
                self.lines[command.generation] = command.kind
                self.silence_ending = self.latest == t.TimerFired("silence") and self.machine.state == "ending"
            case t.StartDraft():
                assert self.draft is None, "one at a time"
                assert command.draft > self.drafts
                self.drafts = command.draft
                self.draft = command.draft, command.user_text
            case t.DropDraft():
                assert self.draft is not None and self.draft[0] == command.draft
                self.draft = None
            case t.FailOver():
                assert command.generation == self.machine.generation, "nobody takes over what is over"
                assert (command.generation, command.stage) not in self.failed_over, "once for each stage"
                self.failed_over.add((command.generation, command.stage))
            case t.CancelReply():
                self.finished.add(command.generation)
            case t.ClearPlayout():
                self.cleared.update(self.queued)
                self.queued.clear()
                self.sounding, self.held = None, False
            case t.HoldPlayout():
                assert not self.held
                assert self.interruptible
                self.held, self.sounding = True, None
            case t.ResumePlayout():
                assert self.held
                self.held = False
            case t.SetTimer():
                assert command.seconds > 0
                self.timers.add(command.name)
            case t.CancelTimer():
                self.timers.discard(command.name)
            case t.OptOut():
                assert not self.opted_out, "once"
                self.opted_out = True
            case t.HangUp():
                self.hang_up = command

    def begin(self, generation: int) -> None:
        assert self.connected
        assert not self.held, "nobody speaks into a hold"
        assert generation > self.highest, "generations only grow"
        assert all(queued in self.finished for queued in self.queued), "two generations speak"
        self.highest = generation
        self.queued.append(generation)

    def fill(self, filler: t.SpeakLine) -> None:
        assert (filler.kind, filler.prepared_only, self.opted_out) == ("filler", True, False)
        assert filler.before == self.highest == filler.generation + 1
        assert filler.generation not in self.queued, "one after the other"
        if self.sounding != self.highest:
            self.queued.insert(self.queued.index(self.highest), filler.generation)
            self.finished.add(filler.generation)

    def use_draft(self, reply: t.StartReply) -> None:
        if reply.draft is not None:
            assert self.draft is not None and self.draft[0] == reply.draft, "committed twice, or dropped before"
            assert normalise_words(self.draft[1]) == normalise_words(reply.user_text or ""), "for other words"
            self.draft = None
        assert self.draft is None, "a draft is left over"

    # --- the callee

    @rule()
    def connect(self) -> None:
        self.event(t.CallConnected())

    @rule(
        kind=st.sampled_from([t.CalleeSpeechStarted, t.CalleePartial, t.CalleePartial, t.CalleeTurnMayEnd]),
        text=st.sampled_from(WORDS),
    )
    def callee_speaks(self, kind: type, text: str) -> None:
        self.speech(kind(text))

    @rule(text=st.sampled_from(WORDS), left_s=st.sampled_from([0.0, 1.0, 9.0, float("inf")]))
    def callee_ends(self, text: str, left_s: float) -> None:
        if self.draft is not None and left_s == 0:
            text = self.draft[1].upper()
        self.speech(t.CalleeTurnEnded(text, left_s))

    @rule(text=st.sampled_from(OPT_OUTS), final=st.booleans(), chance=st.integers(0, 4))
    def callee_opts_out(self, text: str, final: bool, chance: int) -> None:
        if chance == 0:
            self.speech(t.CalleeTurnEnded(text) if final else t.CalleePartial(text))
            assert self.opted_out or not self.connected or not final or self.hang_up is not None

    @precondition(lambda self: self.machine.state == "listening")
    @rule(stage=st.sampled_from(["drafted", "asked", "heard", "heard", "heard"]), end=ends)
    def a_turn(self, stage: str, end: t.TurnEvent | None) -> None:
        """As most go: a shorter way to what may happen in the middle of a reply."""
        if stage == "drafted":
            self.event(t.CalleeTurnMayEnd("where can I park"))
            assert self.draft is None or self.draft[1].endswith("where can I park")
        if end is not None:
            self.event(end)
        self.event(t.CalleeTurnEnded("where can I park"))
        if stage == "heard" and self.queued and self.sounding is None:
            self.event(t.ReplySentence(self.highest, "Does that suit you? "))
            self.sound()

    @precondition(lambda self: self.machine.state == "speaking")
    @rule(then=st.sampled_from(["words", "words", "", "fail", "fail", "opt_out", "end"]), end=ends)
    def a_sound(self, then: str, end: t.TurnEvent | None) -> None:
        self.speech(t.CalleeSpeechStarted())
        alive = bool(self.queued) and self.queued[-1] not in self.finished
        if then == "words":
            self.speech(t.CalleePartial("and what about parking"))
        elif then == "fail" and alive:
            self.event(t.ReplyFailed(self.queued[-1], "tts", True, "down"))
        elif then == "opt_out" and alive and self.highest not in self.lines:
            self.event(t.ToolCalled(self.highest, "opt_out", {}))
            assert self.opted_out, "lost"
        elif then == "end" and end is not None:
            self.event(end)

    def speech(self, event: t.TurnEvent) -> None:
        """What the callee says clears nothing that may not be interrupted, but for an opt-out."""
        opening = self.lines.get(self.highest) == "opening" and self.machine.state == "speaking"
        ending = self.machine.state == "ending" and not self.silence_ending
        commands = self.event(event)
        if (opening and not self.opening_interruptible) or ending or not self.interruptible:
            cleared = any(isinstance(command, t.ClearPlayout | t.HoldPlayout) for command in commands)
            assert not cleared or self.opted_out

    @rule()
    def callee_goes_on(self) -> None:
        self.event(t.CalleeTurnResumed())
        assert self.draft is None

    @rule(digit=st.sampled_from("123456789*#"), chance=st.integers(0, 4))
    def key(self, digit: str, chance: int) -> None:
        if digit != "9" or chance == 0:
            self.event(t.KeyPressed(digit))

    # --- the agent

    @rule(back=st.integers(0, 3), text=st.sampled_from(["Yes. ", "Does that suit you? ", "Goodbye."]))
    def sentence(self, back: int, text: str) -> None:
        self.event(t.ReplySentence(self.highest - back, text))

    @precondition(lambda self: self.highest > 0)
    @rule(
        late=st.booleans(),
        name=st.sampled_from(TOOLS),
        language=st.sampled_from(["fr", "en", "xx"]) | json_values,
        chance=st.integers(0, 3),
    )
    def tool(self, late: bool, name: str, language: object, chance: int) -> None:
        if chance:
            return
        if late:
            assert self.event(t.ToolCalled(self.highest - 1, name, {"language": language})) == []
        elif self.highest in self.queued and self.highest not in self.finished and self.highest not in self.lines:
            waits = self.machine.state == "thinking"
            commands = self.event(t.ToolCalled(self.highest, name, {"language": language}))
            assert self.opted_out or name != "opt_out", "lost"
            if any(isinstance(command, t.SwitchLanguage) for command in commands):
                self.switched += 1
                assert self.switched == 1, "once in a turn"
                restarted = any(isinstance(command, t.SetTimer) and command.name == "reply" for command in commands)
                assert not waits or not restarted, "the callee waits on"

    @precondition(lambda self: self.queued and self.queued[-1] not in self.finished)
    @rule()
    def finish(self) -> None:
        self.finished.add(self.queued[-1])
        self.event(t.ReplyFinished(self.queued[-1]))

    @precondition(lambda self: self.queued and self.queued[-1] not in self.finished)
    @rule(stage=stages, other=st.booleans())
    def fail(self, stage: Stage, other: bool) -> None:
        generation = self.queued[-1]
        self.event(t.ReplyFailed(generation, stage, True, "down", other))

    # --- the playout

    @precondition(lambda self: self.queued and self.sounding is None and not self.held)
    @rule()
    def sound(self) -> None:
        self.sounding = self.queued[0]
        self.sounded.add(self.queued[0])
        self.event(t.PlayoutStarted(self.queued[0]))

    @precondition(lambda self: self.sounding is not None and self.sounding not in self.finished)
    @rule(stage=stages)
    def dry(self, stage: Stage) -> None:
        generation, self.sounding = self.sounding, None
        assert generation is not None
        self.event(t.PlayoutDry(generation, stage))

    @precondition(lambda self: self.queued and self.queued[0] in self.finished)
    @rule()
    def drain(self) -> None:
        """Also in a hold: the news may have been on its way."""
        generation = self.queued.pop(0)
        self.sounding = None
        unheard = generation == self.highest == self.machine.generation and generation not in self.sounded
        self.event(t.PlayoutDrained(generation))
        if unheard and generation not in self.lines:
            assert self.machine.state != "listening", "the callee was answered with nothing"

    @precondition(lambda self: self.queued and self.held)
    @rule(kind=st.sampled_from([t.PlayoutStarted, t.PlayoutDry]))
    def news_from_before_the_hold(self, kind: type) -> None:
        self.event(kind(self.queued[0]))

    @precondition(lambda self: self.cleared)
    @rule(
        kind=st.sampled_from([t.PlayoutStarted, t.PlayoutStarted, t.PlayoutDry, t.PlayoutDrained, t.ReplyFinished]),
        data=st.data(),
    )
    def late_news(self, kind: type, data: st.DataObject) -> None:
        assert self.event(kind(data.draw(st.sampled_from(sorted(self.cleared))))) == []

    # --- time, and faults

    @precondition(lambda self: self.timers)
    @rule(data=st.data(), chance=st.integers(0, 9))
    def timer(self, data: st.DataObject, chance: int) -> None:
        # Those that end the call come seldom, or little else would be seen.
        last: set[t.TimerName] = {"max_duration", "ending", "reply"}
        if names := sorted(self.timers if chance == 0 else self.timers - last):
            name = data.draw(st.sampled_from(names))
            self.timers.discard(name)
            self.event(t.TimerFired(name))

    @rule(kind=st.sampled_from([t.TranscriberFailed, t.CalleeTurnLost, t.HangUpRequested]), chance=st.integers(0, 14))
    def rare(self, kind: type, chance: int) -> None:
        if chance == 0:
            self.event(kind("why"))

    @rule(chance=st.integers(0, 19))
    def socket_closes(self, chance: int) -> None:
        if chance == 0:
            self.event(t.MediaClosed("callee_hung_up", "closed"))
            assert self.hang_up is not None

    # --- what always holds

    @invariant()
    def every_wait_has_an_end(self) -> None:
        if not hasattr(self, "machine") or not self.connected or self.hang_up is not None:
            return
        state = self.machine.state
        assert state != "over"
        assert "max_duration" in self.timers or state == "ending"
        assert (state == "interrupted") == self.held
        if state == "listening":
            assert "silence" in self.timers
            assert not self.queued, "the agent says something and does not know it"
        elif state == "interrupted":
            assert "resume" in self.timers
        else:
            # A deadline runs, or something sounds, or what is next in the queue needs nobody any more.
            assert self.queued
            assert "reply" in self.timers or self.sounding is not None or self.queued[0] in self.finished
        if state == "ending":
            assert "ending" in self.timers

    @invariant()
    def the_end_is_told_once_and_leaves_nothing(self) -> None:
        if not hasattr(self, "machine"):
            return
        assert (self.machine.state == "over") == (self.hang_up is not None)
        if self.hang_up is not None:
            assert (self.timers, self.draft) == (set(), None)
            assert (self.hang_up.outcome == "opted_out") == self.opted_out

    @invariant()
    def after_an_opt_out_the_call_is_ending(self) -> None:
        if hasattr(self, "machine") and self.opted_out:
            assert self.machine.state in ("ending", "over")
            assert self.draft is None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
