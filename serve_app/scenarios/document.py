"""A scenario as a document: an agent, the callee's steps, what is expected of the call, and its circumstances."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import Outcome
from serve_app.conversation.phrases import Language
from serve_app.conversation.turn_types import LineKind
from serve_app.scenarios.steps import BargeIn, Document, Fault, HangUp, Press, Quiet, Reply, Say, Text, one_or_more
from serve_app.settings import CallSettings

# --- what is expected -------------------------------------------------------------------------------------------------


class Expectation(Document):
    """Of what happened since the callee's last step. Conditions on an utterance all hold for the same one.

    Texts are compared by their words, without case and punctuation.
    """

    text: Text | None = None
    contains: Annotated[tuple[Text, ...], BeforeValidator(one_or_more)] = ()
    regex: str | None = None
    heard: str | None = Field(None, description="what was heard of it, at most one word more or less")
    interrupted: bool | None = None
    line: LineKind | Literal["reply"] | None = Field(None, description="a fixed line, or a reply of the model's")
    language: Language | None = None
    within_ms: float | None = Field(None, gt=0, description="from the end of the callee's step to its first sound")

    tool: str | None = Field(None, description="the model called it")
    arguments: Mapping[str, Any] = Field(default_factory=dict, description="of the tool; others may be there too")
    draft: Literal["committed", "dropped"] | None = None
    cause: str | None = Field(None, description="recorded for a wait or a failure")
    outcome: Outcome | None = None
    opted_out: bool | None = None
    silence_below_s: float | None = Field(None, gt=0, description="the longest wait for the agent")

    absent: bool = Field(False, description="nothing of the kind happened")

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set - {"absent"}:
            raise ValueError(f"give at least one of {', '.join(name for name in type(self).model_fields)}")
        if self.absent and (self.outcome is not None or self.silence_below_s is not None):
            raise ValueError("absent does not go with outcome or silence_below_s")
        if self.arguments and self.tool is None:
            raise ValueError("arguments belong to a tool: name it")
        return self

    @property
    def of_utterance(self) -> bool:
        """Whether an utterance must be found."""
        names = {"text", "contains", "regex", "heard", "interrupted", "line", "language", "within_ms"}
        return bool(self.model_fields_set & names)


class Expect(Document):
    expect: Expectation


# --- the whole --------------------------------------------------------------------------------------------------------

ACTIONS: tuple[str, ...] = ("say", "barge_in", "silence", "dtmf", "hang_up", "fault", "expect")


def action_of(step: Any) -> str | None:
    """The key that says what a step does; None where it has none."""
    if isinstance(step, Document):
        return next(iter(type(step).model_fields))
    return next((action for action in ACTIONS if action in step), None) if isinstance(step, Mapping) else None


Step = Annotated[
    Annotated[Say, Tag("say")]
    | Annotated[BargeIn, Tag("barge_in")]
    | Annotated[Quiet, Tag("silence")]
    | Annotated[Press, Tag("dtmf")]
    | Annotated[HangUp, Tag("hang_up")]
    | Annotated[Fault, Tag("fault")]
    | Annotated[Expect, Tag("expect")],
    Discriminator(
        action_of, custom_error_type="no_action", custom_error_message=f"a step has one of {', '.join(ACTIONS)}"
    ),
]


class Latencies(Document):
    """Of the scripted providers, and of the simulators on the wire. Milliseconds."""

    stt_start: float = Field(220, ge=0, description="sound of a turn before its beginning is told")
    stt_eager: float = Field(250, ge=0, description="silence after which the turn may be over")
    stt_end: float = Field(420, gt=0, description="silence after which it is")
    first_token: float = Field(200, ge=0)
    token: float = Field(5, ge=0)
    first_audio: float = Field(100, ge=0)

    @model_validator(mode="after")
    def _eager_is_earlier(self) -> Self:
        if self.stt_eager >= self.stt_end:
            raise ValueError("stt_eager must be below stt_end")
        return self


class Scenario(Document):
    """One conversation. Every call ends: by the agent, or by a step `hang_up`."""

    name: Text
    agent: AgentDefinition
    wire: bool = Field(False, description="also played on the wire by `parley simulate --wire`")
    latencies: Latencies = Latencies()
    call: CallSettings = CallSettings()
    fallbacks: tuple[Literal["llm", "tts"], ...] = Field((), description="stages whose list has a second provider")
    marks: bool = Field(True, description="the network tells when audio was played")
    word_timings: bool = Field(True, description="the synthesizer tells when each word is spoken")
    prepared: bool = Field(True, description="the agent's fixed lines were synthesized before the call")
    max_duration_s: float = Field(300, gt=0, le=7200, description="a call that is longer is stuck")
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    expect: Expectation | None = Field(None, description="of the whole call")

    @model_validator(mode="after")
    def _faults_have_their_provider(self) -> Self:
        for number, step in enumerate(self.steps):
            if isinstance(step, Fault) and step.fault.provider == 2 and step.fault.stage not in self.fallbacks:
                raise ValueError(f"steps.{number}.fault.provider: list {step.fault.stage} under fallbacks")
        return self

    @model_validator(mode="after")
    def _can_be_wired(self) -> Self:
        problem = next(filter(None, map(_not_on_the_wire, range(len(self.steps)), self.steps)), None)
        if self.wire and problem:
            raise ValueError(problem)
        return self


def _not_on_the_wire(number: int, step: Any) -> str | None:
    """Why a step needs virtual time."""
    place = f"steps.{number}.{action_of(step)}"
    if isinstance(step, Fault):
        return f"{place}: faults are played on virtual time; remove wire"
    if isinstance(step, BargeIn) and step.barge_in.after_words is not None:
        return f"{place}.after_words: only the virtual callee counts words; give at_s, or remove wire"
    replies: Sequence[Reply] = step.reply if isinstance(step, Say | BargeIn) else ()
    if any(reply.tool is not None for reply in replies):
        return f"{place}: the simulated model calls tools by itself; remove reply.tool, or wire"
    return None
