"""The vocabulary of the turn machine: what happens to a call (events), and what is to be done (commands)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serve_app.conversation.lease import Outcome
from serve_app.conversation.phrases import Language
from serve_app.errors import Stage

TurnState = Literal["listening", "thinking", "speaking", "interrupted", "ending", "over"]
LineKind = Literal[
    "opening",
    "filler",  # the reply is late
    "apology",
    "still_there",  # the callee is silent
    "duration_warning",  # the call will end soon
    "farewell",
    "failure_farewell",
    "opted_out",  # confirms that this number will not be called again
]
TimerName = Literal[
    "filler",
    "failover",
    "reply",  # audio of the reply must be heard by then, else the turn failed
    "resume",  # an interruption without words was none
    "silence",
    "duration_warning",
    "max_duration",
    "ending",
]
OptOutSource = Literal["key", "phrase", "model"]
ToolName = Literal["opt_out", "end_call", "switch_language"]


# --- events ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CallConnected:
    """The media socket has told its format: the agent may speak."""


@dataclass(frozen=True, slots=True)
class CalleeSpeechStarted:
    """`text`: the words recognised so far, if the transcriber tells any."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class CalleePartial:
    """The callee is still speaking. `text` is cumulative for the turn."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class CalleeTurnMayEnd:
    """The transcriber thinks that the turn may be over: a draft of the answer may begin."""

    text: str


@dataclass(frozen=True, slots=True)
class CalleeTurnResumed:
    """It was not over."""


@dataclass(frozen=True, slots=True)
class CalleeTurnEnded:
    """`agent_left_s`: how much of the agent's speech was still to be heard; infinite while more of it is being made."""

    text: str
    agent_left_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplySentence:
    """A piece of the reply's text went to the synthesizer."""

    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model asks for an action. `arguments`: as the model gave them, an object or nothing."""

    generation: int
    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ReplyFinished:
    """All text and audio of the reply or line is in the playout."""

    generation: int


@dataclass(frozen=True, slots=True)
class ReplyFailed:
    """The reply or line got no further: FailOver or CancelReply decides what becomes of it.

    `has_alternative`: another provider of that stage is configured and has not been asked in this generation.
    """

    generation: int
    stage: Stage
    retryable: bool
    detail: str
    has_alternative: bool = False


@dataclass(frozen=True, slots=True)
class PlayoutStarted:
    """The first frame of the generation was sent, or the next one after a dry spell."""

    generation: int


@dataclass(frozen=True, slots=True)
class PlayoutDry:
    """The callee hears nothing, and more of the generation must come. `awaited`: the stage that owes it."""

    generation: int
    awaited: Stage = "tts"


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
    | CalleeTurnMayEnd
    | CalleeTurnResumed
    | CalleeTurnEnded
    | ReplySentence
    | ToolCalled
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
    """Ask the language model, and speak what it answers. `user_text` None: nothing new was said by the callee.

    `draft`: the draft of that id was made for this very text, and becomes the reply. `in_words`: the answer before it
    was heard to say nothing, so the model is told to speak.
    """

    generation: int
    user_text: str | None
    draft: int | None = None
    in_words: bool = False


@dataclass(frozen=True, slots=True)
class StartDraft:
    """Ask the language model what it would answer; nothing of it is spoken, stored or carried out."""

    draft: int
    user_text: str


@dataclass(frozen=True, slots=True)
class DropDraft:
    draft: int


@dataclass(frozen=True, slots=True)
class SpeakLine:
    """Speak a fixed text. `prepared_only`: the synthesizer is down, so only audio made beforehand will do.

    `before`: it is played ahead of that generation (a filler); without prepared audio it is left out.
    """

    generation: int
    kind: LineKind
    text: str
    prepared_only: bool = False
    before: int | None = None


@dataclass(frozen=True, slots=True)
class FailOver:
    """Give the generation, with all that was not spoken yet, to the next provider of this stage, if there is one.

    `cause` goes on the turn's record.
    """

    generation: int
    stage: Stage
    cause: str


@dataclass(frozen=True, slots=True)
class CancelReply:
    """Stop the model and the synthesizer for this generation; nothing of it is spoken any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class ClearPlayout:
    """Drop all audio, in the network's buffer too; account for what was heard."""

    generation: int


@dataclass(frozen=True, slots=True)
class HoldPlayout:
    """Be silent at once, in the network's buffer too, and keep what was not heard: it may have been no interruption."""


@dataclass(frozen=True, slots=True)
class ResumePlayout:
    """Go on from the word at which HoldPlayout stopped."""


@dataclass(frozen=True, slots=True)
class NoteCause:
    """Why the callee waits, or will hear something else than a reply: goes on the record of this generation's turn."""

    generation: int
    cause: str


@dataclass(frozen=True, slots=True)
class OptOut:
    """This number must not be called again. Effective before anything else is said."""

    source: OptOutSource
    text: str


@dataclass(frozen=True, slots=True)
class SwitchLanguage:
    """From now on listen, think and speak in this language."""

    language: Language


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


TurnCommand = (
    StartReply
    | StartDraft
    | DropDraft
    | SpeakLine
    | FailOver
    | CancelReply
    | ClearPlayout
    | HoldPlayout
    | ResumePlayout
    | NoteCause
    | OptOut
    | SwitchLanguage
    | SetTimer
    | CancelTimer
    | HangUp
)
