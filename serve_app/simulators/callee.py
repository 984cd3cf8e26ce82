"""What a simulated callee does, as a validated document. The acting is in `callee_actor.py`."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from serve_app.errors import SettingsError
from serve_app.paths import configs_dir

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
MAX_SOUND_BYTES = 64 * 1024 * 1024


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Say(_Document):
    """Speak once the agent has answered and then been quiet for `pause_ms`.

    An agent that does not answer within `patience_ms` is spoken to all the same.
    """

    say: Text
    pause_ms: int = Field(700, ge=0, le=60_000)
    patience_ms: int = Field(8000, ge=0, le=600_000)


class BargeIn(_Document):
    """Speak `after_ms` after the agent's next utterance began to sound."""

    barge_in: Text
    after_ms: int = Field(1000, ge=0, le=60_000)


class Play(_Document):
    """Play a sound file like `Say`. Without a transcript the platform must recognise it freely."""

    play: Path
    transcript: Text | None = None
    pause_ms: int = Field(700, ge=0, le=60_000)
    patience_ms: int = Field(8000, ge=0, le=600_000)


class PlayBytes(_Document):
    """`Play` with the sound file itself, base64."""

    play_base64: str = Field(repr=False, max_length=MAX_SOUND_BYTES * 4 // 3 + 4)
    transcript: Text | None = None
    pause_ms: int = Field(700, ge=0, le=60_000)
    patience_ms: int = Field(8000, ge=0, le=600_000)

    @field_validator("play_base64")
    @classmethod
    def _decodes(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError("not base64") from error
        return value

    @property
    def sound(self) -> bytes:
        return base64.b64decode(self.play_base64)


class Wait(_Document):
    wait_ms: int = Field(ge=0, le=3_600_000)


class Dtmf(_Document):
    """Press keys, one per 300 ms."""

    dtmf: Annotated[str, StringConstraints(pattern=r"^[0-9*#]{1,32}$")]


class Beep(_Document):
    """The tone after which a voicemail box records. Where asked, the network tells of it (`beep_start`)."""

    beep_ms: int = Field(ge=120, le=5000)


class HangUp(_Document):
    """Hang up at once, or, with `pause_ms`, once the agent has answered and then been quiet for as long."""

    hang_up: Literal[True]
    pause_ms: int | None = Field(None, ge=0, le=60_000)
    patience_ms: int = Field(8000, ge=0, le=600_000)


class Listen(_Document):
    """Stay on the line until the platform hangs up."""

    listen: Literal[True]


Step = Say | BargeIn | Play | PlayBytes | Wait | Dtmf | Beep | HangUp | Listen
Outcome = Literal["answer", "voicemail", "busy", "no_answer", "unanswered", "rejected", "failed"]


class CalleeBehaviour(_Document):
    """One callee. After the last step it listens until the platform hangs up."""

    outcome: Outcome = "answer"
    """`voicemail` is answered as well; machine detection, where asked for, tells them apart."""
    detail: str | None = Field(None, max_length=100)
    """The network's word for why the call was not answered; without it, the usual one of the outcome."""
    answer_after_ms: int = Field(800, ge=0, le=120_000)
    """Ringing until `outcome` shows; `no_answer` rings until the platform's ringing timer ends it."""
    voice: str = "callee-en"
    steps: tuple[Step, ...] = ()
    max_duration_s: float = Field(180, gt=0, le=7200)
    """Then the callee hangs up, whatever the platform does."""


def load_behaviour(path: Path | None = None) -> CalleeBehaviour:
    """A behaviour from a YAML file; without a path the demonstration's. Raises SettingsError."""
    path = path or configs_dir() / "callees" / "demo.yaml"
    try:
        return CalleeBehaviour.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"callee behaviour {path}: {error}") from error
