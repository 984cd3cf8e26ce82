"""The stages of a run, from a YAML file, as a Locust shape."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Stage(BaseModel):
    """One stretch of a run. `ramp` goes evenly from the users before to `users`; the others hold them.

    `spawn_rate`: users that come or go per second when the count jumps (a plateau after another, a spike).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["ramp", "plateau", "spike", "soak"]
    users: int = Field(ge=0)
    seconds: float = Field(gt=0)
    spawn_rate: float = Field(10, gt=0)


class Stages(BaseModel):
    """A whole run; it ends with its last stage."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    def at(self, seconds: float, scale: float = 1.0) -> tuple[int, float] | None:
        """(users, spawn rate) after so many seconds; None when the run is over. `scale` multiplies every count."""
        begin, before = 0.0, 0
        for stage in self.stages:
            into = seconds - begin
            if into < stage.seconds:
                share = into / stage.seconds if stage.kind == "ramp" else 1.0
                users = before + (stage.users - before) * share
                rate = abs(stage.users - before) * scale / stage.seconds if stage.kind == "ramp" else stage.spawn_rate
                return round(users * scale), max(1.0, rate)
            begin, before = begin + stage.seconds, stage.users
        return None


def load_stages(path: Path) -> Stages:
    """Raises ValueError that names the file and the place."""
    try:
        return Stages.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"stages {path}: {error}") from error
