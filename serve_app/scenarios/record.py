"""What happened in a played call: moments as they come, and afterwards utterances, steps and the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from serve_app.conversation import turn_types as t
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.latency import TurnLatency
from serve_app.conversation.lease import CallResult
from serve_app.conversation.phrases import Language
from serve_app.scenarios.silence import SilenceWatch

Who = Literal["callee", "agent", "event", "command", "fault"]


@dataclass(frozen=True, slots=True)
class Moment:
    """`at`: seconds since the line was opened. `name`: of the event or command; empty for speech."""

    at: float
    who: Who
    name: str
    text: str = ""


@dataclass(slots=True)
class StepTimes:
    """When a step of the callee's began, and when it was done: its words said, its keys pressed."""

    number: int
    began: float
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Utterance:
    """A turn of the agent's. `line`: a fixed line's kind, or "reply"."""

    line: str
    language: Language
    text: str
    heard_text: str
    interrupted: bool
    began: float
    ended: float
    latency: TurnLatency


@dataclass(slots=True)
class _Start:
    generation: int
    line: str
    language: Language


@dataclass
class CallRecord:
    """Filled while the call runs."""

    language: Language
    clock: Callable[[], float]
    """Seconds since the line was opened."""
    silence: SilenceWatch
    moments: list[Moment] = field(default_factory=list)
    steps: list[StepTimes] = field(default_factory=list)
    turns: list[tuple[float, t.TurnEvent, Sequence[t.TurnCommand]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    utterances: list[Utterance] = field(default_factory=list)
    result: CallResult | None = None
    opt_outs: Sequence[tuple[str, str]] = ()
    watchers: list[Callable[[t.TurnEvent, Sequence[t.TurnCommand]], None]] = field(default_factory=list)
    """Told of every event of the turn machine and of its commands."""
    _kinds: dict[int, str] = field(default_factory=dict)
    _active: set[int] = field(default_factory=set)
    _starts: list[_Start] = field(default_factory=list)

    # --- while it runs ---

    def moment(self, who: Who, name: str, text: str) -> None:
        self.moments.append(Moment(self.clock(), who, name, text))

    def problem(self, text: str) -> None:
        """What is wrong whatever the scenario expects."""
        self.problems.append(text)

    def step_began(self, number: int, text: str) -> None:
        self.steps.append(StepTimes(number, self.clock()))
        if text:
            self.moment("callee", "", text)

    def step_ended(self, number: int) -> None:
        if self.steps and self.steps[-1].number == number:
            self.steps[-1].ended = self.clock()

    def turn(self, event: t.TurnEvent, commands: Sequence[t.TurnCommand]) -> None:
        """An event of the turn machine and its commands: `CallSession`'s `observe`."""
        now = self.clock()
        self.turns.append((now, event, commands))
        self.silence.event(event, now)
        self.moments.append(Moment(now, "event", *described(event)))
        if isinstance(event, t.PlayoutStarted) and event.generation not in self._active:
            self._active.add(event.generation)
            kind = self._kinds.get(event.generation, "reply")
            self._starts.append(_Start(event.generation, kind, self.language))
        elif isinstance(event, t.PlayoutDrained):
            self._active.discard(event.generation)
        for command in commands:
            self._command(command, now)
        for watcher in self.watchers:
            watcher(event, commands)

    def _command(self, command: t.TurnCommand, now: float) -> None:
        self.silence.command(command, now)
        if not isinstance(command, t.SetTimer | t.CancelTimer):
            self.moments.append(Moment(now, "command", *described(command)))
        if isinstance(command, t.SpeakLine):
            self._kinds[command.generation] = command.kind
        elif isinstance(command, t.ClearPlayout):
            self._active.clear()
        elif isinstance(command, t.SwitchLanguage):
            self.language = command.language

    # --- when it is over ---

    def finish(self, result: CallResult, turns: Sequence[TurnRecord], opt_outs: Sequence[tuple[str, str]]) -> None:
        """`turns`: of the journal. The agent's are told in the order in which their first frames were played."""
        self.result, self.opt_outs = result, opt_outs
        spoken = [turn for turn in turns if turn.role == "agent"]
        if len(spoken) != len(self._starts):
            self.problem(f"the transcript has {len(spoken)} turns of the agent, but {len(self._starts)} were played")
        for start, turn in zip(self._starts, spoken, strict=False):
            self.utterances.append(
                Utterance(
                    start.line,
                    start.language,
                    turn.text,
                    turn.heard_text,
                    turn.interrupted,
                    turn.started_ms / 1000,
                    turn.ended_ms / 1000,
                    turn.latency,
                )
            )
        for utterance in self.utterances:
            self.moments.append(Moment(utterance.began, "agent", utterance.line, utterance.heard_text))
        self.moments.sort(key=lambda moment: moment.at)

    @property
    def causes(self) -> list[tuple[float, str]]:
        """When a cause for a wait or a failure was recorded, and which."""
        return [
            (at, command.cause)
            for at, _, commands in self.turns
            for command in commands
            if isinstance(command, t.NoteCause | t.FailOver)
        ]


def described(what: t.TurnEvent | t.TurnCommand) -> tuple[str, str]:
    """Name and text of an event or a command; no generations, times or partial texts."""
    name = type(what).__name__
    match what:
        case t.CalleeTurnEnded() | t.CalleeTurnMayEnd() | t.ReplySentence():
            return name, what.text.strip()
        case t.StartReply() | t.StartDraft():
            drafted = " (drafted)" if isinstance(what, t.StartReply) and what.draft is not None else ""
            return name, f"{what.user_text or ''}{drafted}"
        case t.SpeakLine():
            return name, f"{what.kind}: {what.text}"
        case t.ToolCalled():
            return name, f"{what.name} {dict(what.arguments)}"
        case t.FailOver():
            return name, f"{what.stage}: {what.cause}"
        case t.NoteCause():
            return name, what.cause
        case t.ReplyFailed() | t.TranscriberFailed() | t.CalleeTurnLost():
            return name, what.detail
        case t.TimerFired():
            return name, what.name
        case t.KeyPressed():
            return name, what.digit
        case t.OptOut():
            return name, f"{what.source}: {what.text}"
        case t.SwitchLanguage():
            return name, what.language
        case t.HangUp() | t.MediaClosed():
            return name, what.outcome
        case _:
            return name, ""


def order(record: CallRecord) -> list[str]:
    """The turn machine's events and commands in their order, without what depends on timing alone.

    Left out: partial texts (their number is a matter of chunks) and timers that are set and cancelled.
    """
    told: list[str] = []
    for _, event, commands in record.turns:
        if not isinstance(event, t.CalleePartial):
            told.append(" ".join(filter(None, described(event))))
        told += [
            " ".join(filter(None, ("->", *described(command))))
            for command in commands
            if not isinstance(command, t.SetTimer | t.CancelTimer)
        ]
    return told
