"""The vocabulary of the turn machine: what happens to a call (events), and what is to be done (commands)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serve_app.conversation.lease import Outcome
from serve_app.errors import Stage

TurnState = Literal["listening", "thinking", "speaking", "ending", "over"]
LineKind = Literal["opening", "apology", "farewell", "failure_farewell"]
TimerName = Literal["reply", "silence", "max_duration", "ending"]


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallConnected:
    """The media socket has told its format: the agent may speak."""


@dataclass(frozen=True, slots=True)
class CalleeSpeechStarted:
    pass


@dataclass(frozen=True, slots=True)
class CalleePartial:
    """The callee is still speaking."""


@dataclass(frozen=True, slots=True)
class CalleeTurnEnded:
    text: str


@dataclass(frozen=True, slots=True)
class ReplySentence:
    """A piece of the reply's text went to the synthesizer."""

    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class ReplyFinished:
    """All text and audio of the reply or line is in the playout."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """The reply or line got no further. What it has in the playout is still played."""

    generation: int
    stage: Stage
    retryable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class PlayoutStarted:
    """The first frame of the generation was sent, or the next one after a dry spell."""

    generation: int


@dataclass(frozen=True, slots=True)
class PlayoutDry:
    """The callee hears nothing, and more of the generation must come."""

    generation: int


@dataclass(frozen=True, slots=True)
class PlayoutDrained:
    """The generation was played to its end."""

    generation: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    name: TimerName


@dataclass(frozen=True, slots=True)
class KeyPressed:
    digit: str


@dataclass(frozen=True, slots=True)
class HangUpRequested:
    """By command of a person."""

    detail: str


@dataclass(frozen=True, slots=True)
class MediaClosed:
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class TranscriberFailed:
    """Speech is not recognised any more, and a reconnect did not help."""

    detail: str


@dataclass(frozen=True, slots=True)
class CalleeTurnLost:
    """What the callee said will never be told: the transcriber failed in the middle, and was opened again."""

    detail: str


TurnEvent = (
    CallConnected
    | CalleeSpeechStarted
    | CalleePartial
    | CalleeTurnEnded
    | ReplySentence
    | ReplyFinished
    | ReplyFailed
    | PlayoutStarted
    | PlayoutDry
    | PlayoutDrained
    | TimerFired
    | KeyPressed
    | HangUpRequested
    | MediaClosed
    | TranscriberFailed
    | CalleeTurnLost
)


# --- commands -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartReply:
    """Ask the language model, and speak what it answers."""

    generation: int
    user_text: str


@dataclass(frozen=True, slots=True)
class SpeakLine:
    """Speak a fixed text. `prepared_only`: the synthesizer is down, so only audio made beforehand will do."""

    generation: int
    kind: LineKind
    text: str
    prepared_only: bool = False


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop the model and the synthesizer for this generation; nothing of it is spoken any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class ClearPlayout:
    """Drop all audio, in the network's buffer too; account for what was heard."""

    generation: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Start or restart."""

    name: TimerName
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    name: TimerName


@dataclass(frozen=True, slots=True)
class HangUp:
    """The conversation is over. The last command of a call."""

    outcome: Outcome
    detail: str | None = None


TurnCommand = StartReply | SpeakLine | CancelReply | ClearPlayout | SetTimer | CancelTimer | HangUp
