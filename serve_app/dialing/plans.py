"""The plans of tenants: `configs/plans.yaml`. Pure but for reading that file once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve_app.errors import SettingsError
from serve_app.paths import configs_dir
from serve_app.store.usage import Used


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Part):
    """None: unlimited."""

    minutes: float | None = Field(None, ge=0, description="of talk in a calendar month (UTC)")
    agents: int | None = Field(None, ge=1, description="that running campaigns may use")
    concurrent_calls: int | None = Field(None, ge=0)


class Plans(_Part):
    plans: Mapping[str, Plan]
    minute_minor: float = Field(ge=0, description="the cost of a minute of talk, in minor units")
    reserve_minutes: float = Field(gt=0, description="of a call that has not ended")
    euro_minor: float = Field(100, gt=0, description="what a euro, in which the network charges, is in minor units")

    @model_validator(mode="after")
    def _has_a_plan(self) -> Self:
        if not self.plans:
            raise ValueError("plans: name at least one; the first is that of tenants of whom nothing is known")
        return self

    def of(self, name: str | None) -> Plan | None:
        """The plan of this name, the first one for None. None: there is no such plan, so nothing may be called."""
        return next(iter(self.plans.values())) if name is None else self.plans.get(name)

    def cost_minor(self, talk_s: float) -> int:
        """Of so much talk, rounded up."""
        return math.ceil(talk_s / 60 * self.minute_minor)

    def spent_minor(self, used: Used) -> int:
        """What calls that have ended cost: what the network charged, where it told so, and by their talk where not.

        Never less than all of it by the talk: that also pays for speech and language model, of which no network tells.
        """
        charged = math.ceil(used.cost_micros * self.euro_minor / 1_000_000)
        unpriced_s = max(0.0, round(used.talk_s - used.priced_talk_s, 3))
        return max(self.cost_minor(used.talk_s), charged + self.cost_minor(unpriced_s))

    @property
    def reserve_minor(self) -> int:
        return self.cost_minor(self.reserve_minutes * 60)


@cache
def shipped_plans() -> Plans:
    """The plans that come with Parley, or that stand in their place in `configs/`. Raises SettingsError."""
    return load_plans(configs_dir() / "plans.yaml")


def load_plans(file: Path) -> Plans:
    """Raises SettingsError, which names file and field."""
    try:
        return Plans.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{file}: {error}") from error
