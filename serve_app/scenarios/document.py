"""A scenario as a validated document: what the callee does, what the model answers, what must come of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, field_validator, model_validator

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import Outcome
from serve_app.conversation.phrases import Language
from serve_app.conversation.turn_types import LineKind, OptOutSource
from serve_app.settings import CallSettings

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
FaultStage = Literal["stt", "llm", "tts"]

FAULT_KINDS: dict[FaultStage, tuple[str, ...]] = {
    "stt": ("401", "refuse", "cut", "end", "silent", "lost"),
    "llm": ("401", "429", "500", "hang", "half_open", "slow_drip", "stall", "cut", "empty"),
    "tts": ("429", "fail", "hang", "half_open", "silent", "slow_drip", "stall", "cut", "endless"),
}
PAUSE = "|"
"""In the callee's text: a pause within the utterance, where a transcriber may think that the turn is over."""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tool(_Document):
    name: Text
    arguments: dict[str, Any] = Field(default_factory=dict)


class _Answered(_Document):
    """What the model answers to the callee's words. Without `reply` and `tool`: something harmless."""

    reply: Text | None = None
    tool: Tool | None = Field(None, description="called before the reply, once")
    first_token_ms: float | None = Field(None, ge=0, le=60_000)


class _Spoken(_Document):
    words_per_s: float = Field(3, ge=0.5, le=10)
    pause_s: float = Field(0.4, gt=0, lt=5, description=f"length of each pause that a `{PAUSE}` in the text stands for")
    confidence: float = Field(0.95, ge=0, le=1, description="of the recognised words")


class Say(_Answered, _Spoken):
    """Speak once the agent has answered and then been quiet for `after_s`."""

    say: Text
    after_s: float = Field(0.6, ge=0, le=60)
    at_once: bool = Field(False, description="do not wait for the agent")


class Interruption(_Spoken):
    text: Text
    at_s: float | None = Field(None, ge=0, le=600, description="since the agent began to be heard")
    after_words: int | None = Field(None, ge=1, le=1000, description="of the agent's that were heard")

    @model_validator(mode="after")
    def _one_moment(self) -> Self:
        if (self.at_s is None) == (self.after_words is None):
            raise ValueError("give either at_s or after_words")
        return self


class BargeIn(_Answered):
    """Speak while the agent is heard: its present utterance, or its next."""

    barge_in: Interruption


class Silence(_Document):
    """Say nothing for so long."""

    silence: float = Field(gt=0, le=3600)


class Keys(_Document):
    keys: Annotated[str, StringConstraints(pattern=r"^[0-9*#]{1,32}$")]
    at_s: float | None = Field(None, ge=0, le=600, description="since the agent began to be heard; unset: at once")


class Dtmf(_Document):
    """Press keys, one per 300 ms."""

    dtmf: Keys

    @field_validator("dtmf", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"keys": value} if isinstance(value, str) else value


class HangUp(_Document):
    """Hang up once the agent has answered and then been quiet for `after_s`."""

    hang_up: Literal[True]
    after_s: float = Field(0.6, ge=0, le=60)
    at_once: bool = False


class FaultOrder(_Document):
    stage: FaultStage
    kind: str
    times: int = Field(1, ge=1, le=1000)
    everywhere: bool = Field(False, description="at the stage's second provider too")

    @model_validator(mode="after")
    def _stage_has_it(self) -> Self:
        known = FAULT_KINDS[self.stage]
        if self.kind not in known:
            raise ValueError(f"{self.stage} has no fault {self.kind!r}; it has {', '.join(known)}")
        return self


class Fault(_Document):
    """Break the next `times` requests (streams, utterances) of a provider."""

    fault: FaultOrder


class Expected(_Document):
    """All that is set must hold within `patience_s`, of what happened since the callee's latest step."""

    text: Text | None = Field(None, description="an utterance of the agent's was heard, word for word")
    contains: Text | None = Field(None, description="... with these words in it; case does not matter")
    regex: Text | None = Field(None, description="... that matches")
    heard: Text | None = Field(None, description="the agent's interrupted utterance, as far as it was heard")
    line: LineKind | None = Field(None, description="a fixed line began to be heard")
    tool: Text | None = Field(None, description="the model called it")
    language: Language | None = Field(None, description="the agent switched to it")
    draft: Literal["started", "committed", "dropped"] | None = None
    resumed: Literal[True] | None = Field(None, description="the agent went on where it had fallen silent")
    cause: Text | None = Field(None, description="recorded with the agent's turn, or as the end's detail")
    opted_out: OptOutSource | Literal[False] | None = Field(None, description="by which of the three ways; false: not")
    outcome: Outcome | None = Field(None, description="the call is over, and how")
    within_ms: float | None = Field(
        None, gt=0, le=600_000, description="from the callee's last sound to the agent's first, in its answer"
    )
    silence_below_s: float | None = Field(
        None, gt=0, le=600, description="no wait for the agent's voice was longer, in the whole call"
    )
    absent: bool = Field(False, description="none of what is set may hold, for `patience_s`")
    patience_s: float = Field(20, gt=0, le=3600)

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _expects_something(self) -> Self:
        if not self.wishes:
            raise ValueError(f"expects nothing; set one of {', '.join(sorted(_WISHES))}")
        return self

    @property
    def wishes(self) -> dict[str, Any]:
        """What is set, by name."""
        return {name: value for name in sorted(_WISHES) if (value := getattr(self, name)) is not None}


_WISHES = frozenset(Expected.model_fields) - {"absent", "patience_s"}


class Expect(_Document):
    expect: Expected


_STEPS: dict[str, type[_Document]] = {
    "say": Say,
    "barge_in": BargeIn,
    "silence": Silence,
    "dtmf": Dtmf,
    "hang_up": HangUp,
    "fault": Fault,
    "expect": Expect,
}


def _kind_of(step: Any) -> str | None:
    if isinstance(step, dict):
        return next((key for key in step if key in _STEPS), None)
    return next((name for name, kind in _STEPS.items() if type(step) is kind), None)


Step = Annotated[
    Annotated[Say, Tag("say")]
    | Annotated[BargeIn, Tag("barge_in")]
    | Annotated[Silence, Tag("silence")]
    | Annotated[Dtmf, Tag("dtmf")]
    | Annotated[HangUp, Tag("hang_up")]
    | Annotated[Fault, Tag("fault")]
    | Annotated[Expect, Tag("expect")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_step",
        custom_error_message=f"unknown step; a step is a mapping with one of {', '.join(_STEPS)}",
    ),
]


class ProviderDelays(_Document):
    """How the scripted providers behave. Milliseconds."""

    speech_start_ms: float = Field(100, ge=0, le=5000, description="sound before the beginning of speech is told")
    eager_ms: float = Field(250, ge=0, le=5000, description="silence before the turn may be over")
    end_of_turn_ms: float = Field(500, ge=20, le=10_000, description="silence before the turn is over")
    eager: bool = Field(True, description="the transcriber tells that a turn may be over")
    first_token_ms: float = Field(150, ge=0, le=60_000)
    first_audio_ms: float = Field(90, ge=0, le=60_000)
    word_times: bool = Field(True, description="the synthesizer tells when each word is spoken")
    second: tuple[FaultStage, ...] = Field((), description="stages with a second provider to fail over to")


class Scenario(_Document):
    """One conversation."""

    name: Text
    agent: AgentDefinition
    call: CallSettings = CallSettings()
    providers: ProviderDelays = ProviderDelays()
    confirms: bool = Field(True, description="the phone network tells what it has played")
    wire: bool = Field(False, description="also run on the wire, in real time")
    max_duration_s: float = Field(600, gt=0, le=7200, description="the callee hangs up then, and the scenario failed")
    steps: tuple[Step, ...] = Field(min_length=1, max_length=2000)

    @model_validator(mode="after")
    def _wire_can(self) -> Self:
        for number, step in enumerate(self.steps, 1):
            if not self.wire:
                break
            if isinstance(step, BargeIn) and step.barge_in.after_words is not None:
                raise ValueError(f"step {number}: after_words cannot be counted on the wire; use at_s, or wire: false")
            if isinstance(step, Fault):
                raise ValueError(f"step {number}: faults are for virtual time; use wire: false")
            if isinstance(step, Say | BargeIn) and step.tool is not None:
                raise ValueError(f"step {number}: the model on the wire calls no tools; use wire: false")
        return self
