"""What a callee does in a scenario, step by step, and what the model answers: the parts of its document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, field_validator, model_validator

from serve_app.scenarios.scripted_llm import LlmPlan
from serve_app.scenarios.scripted_stt import SttPlan
from serve_app.scenarios.scripted_tts import TtsPlan

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
FaultStage = Literal["stt", "llm", "tts"]
KINDS: Mapping[FaultStage, frozenset[str]] = {
    "stt": frozenset(get_args(SttPlan)) - {"ok"},
    "llm": frozenset(get_args(LlmPlan)) - {"ok"},
    "tts": frozenset(get_args(TtsPlan)) - {"ok"},
}


class Document(BaseModel):
    """A part of a scenario. An unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def one_or_more(value: Any) -> Any:
    """A single value, for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


# --- what the model answers -------------------------------------------------------------------------------------------


class ToolUse(Document):
    name: Text
    arguments: Mapping[str, Any] = Field(default_factory=dict)


class Reply(Document):
    """A text, a tool call, or a text before a tool call."""

    text: str = ""
    tool: ToolUse | None = None
    first_token_ms: float | None = Field(None, ge=0, le=120_000, description="instead of the scenario's own")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.text.strip() and self.tool is None:
            raise ValueError("give text, tool, or both")
        return self


def _reply(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


Replies = Annotated[tuple[Annotated[Reply, BeforeValidator(_reply)], ...], BeforeValidator(one_or_more)]


# --- what the callee does ---------------------------------------------------------------------------------------------


class Say(Document):
    """Speak once the agent has answered and been quiet for `after_s`; after `patience_s` all the same.

    A list of texts is one utterance with pauses of `pause_s` inside, in which the turn may seem to be over.
    """

    say: Annotated[tuple[Text, ...], BeforeValidator(one_or_more), Field(min_length=1)]
    after_s: float = Field(0.7, ge=0, le=60)
    patience_s: float = Field(8, ge=0, le=600)
    words_per_s: float = Field(2.5, gt=0, le=10)
    pause_s: float = Field(0.35, gt=0, le=5)
    eager: bool = Field(True, description="the transcriber tells that the turn may be over before it is")
    confidence: float = Field(0.95, ge=0, le=1)
    reply: Replies = ()

    @property
    def text(self) -> str:
        return " ".join(self.say)


class Interruption(Document):
    """`at_s`, `after_words`: of the first utterance of the agent's that began after the callee's last."""

    text: str = Field("", max_length=4000)
    noise_s: float | None = Field(None, gt=0, le=10, description="instead of a text: a sound without words")
    at_s: float | None = Field(None, ge=0, le=600)
    after_words: int | None = Field(None, ge=1, le=1000)
    words_per_s: float = Field(2.5, gt=0, le=10)

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if bool(self.text.strip()) == (self.noise_s is not None):
            raise ValueError("give text or noise_s")
        if (self.at_s is None) == (self.after_words is None):
            raise ValueError("give at_s or after_words: how much of the agent's speech is heard first")
        return self


class BargeIn(Document):
    """Speak while the agent does."""

    barge_in: Interruption
    reply: Replies = ()


class Quiet(Document):
    """Say nothing for so long."""

    silence: float = Field(gt=0, le=3600)


class Press(Document):
    """Press keys, at once or when the agent has been heard for `at_s`."""

    dtmf: Annotated[str, StringConstraints(pattern=r"^[0-9*#]{1,32}$")] = Field(description="in quotes")
    at_s: float | None = Field(None, ge=0, le=600)


class HangUp(Document):
    """Hang up once the agent has answered and been quiet for `after_s`, or when it has been heard for `at_s`."""

    hang_up: Literal[True]
    after_s: float = Field(0.7, ge=0, le=60)
    patience_s: float = Field(8, ge=0, le=600)
    at_s: float | None = Field(None, ge=0, le=600)


class FaultPlan(Document):
    stage: FaultStage
    kind: str
    times: int = Field(1, ge=1, le=1000, description="requests, utterances or connections in a row")
    provider: Literal[1, 2] = Field(1, description="which entry of the stage's list; 2 needs fallbacks")

    @field_validator("kind", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _stage_can(self) -> Self:
        if self.kind not in KINDS[self.stage]:
            raise ValueError(f"{self.stage} has no fault {self.kind!r}; it has {', '.join(sorted(KINDS[self.stage]))}")
        return self


class Fault(Document):
    """From now on a provider fails: its next requests, and of `stt` the stream that is open."""

    fault: FaultPlan
