"""The file that describes the demonstration of a campaign, `configs/demo_campaign/demo.yaml`, and its surroundings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import yaml
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from serve_app.dialing.campaign_clock import CampaignClock, CampaignTime
from serve_app.dialing.campaign_spec import CampaignSpec
from serve_app.dialing.numbers import PhoneNumber
from serve_app.dialing.rules import is_zone
from serve_app.errors import SettingsError
from serve_app.paths import configs_dir
from serve_app.settings import ENV_PREFIX

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)")


def _zone(name: str) -> str:
    if not is_zone(name):
        raise ValueError(f"{name} is no time zone; write an IANA name such as America/New_York")
    return name


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DemoClock(_Document):
    begins: AwareDatetime
    speed: float = Field(ge=1, le=3600)
    zone: Annotated[str, AfterValidator(_zone)]

    def since(self, started_at: datetime) -> CampaignTime:
        return CampaignClock(self.begins, self.speed).of(started_at)

    def told(self, shown: datetime) -> datetime:
        return shown.astimezone(ZoneInfo(self.zone))


class Expected(_Document):
    """Of the whole file."""

    accepted: int
    refused: int
    opt_outs: int
    calls: int


class DemoFile(_Document):
    """`network` and `callees` are the simulator's documents: it validates them."""

    leads: Path
    region: str
    clock: DemoClock
    plan: str
    hours: float = Field(gt=0, le=24)
    campaign: CampaignSpec
    do_not_call: tuple[PhoneNumber, ...] = ()
    network: Mapping[str, Any]
    callees: Mapping[PhoneNumber, Mapping[str, Any]] = Field(default_factory=dict)
    expect: Expected

    @classmethod
    def shipped(cls) -> DemoFile:
        """Raises SettingsError."""
        file = configs_dir() / "demo_campaign" / "demo.yaml"
        try:
            found = cls.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, ValidationError) as error:
            raise SettingsError(f"{file}: {error}") from error
        return found.model_copy(update={"leads": file.parent / found.leads})


@contextmanager
def surroundings(demo: DemoFile, folder: Path) -> Iterator[None]:
    """The environment of a platform that has nothing but `folder`, the stand-ins and the demonstration's clock.

    Nothing of the caller's configuration counts: hundreds of calls must not reach a provider that costs money, a phone
    that rings, or a database that somebody needs.
    """
    shipped = configs_dir() / "parley.yaml"
    named = set(_VARIABLE.findall(shipped.read_text(encoding="utf-8")))
    before = dict(os.environ)
    for name in before:
        if name.upper().startswith(ENV_PREFIX) or name in named:
            del os.environ[name]
    os.environ.update(
        {
            "PARLEY_CONFIG": str(shipped),
            "PARLEY_DATA_DIR": str(folder),
            "PARLEY_TELEPHONY__VONAGE__MACHINE_DETECTION": "continue",
            "PARLEY_DIALING__SIMULATED_CLOCK__BEGINS": demo.clock.begins.isoformat(),
            "PARLEY_DIALING__SIMULATED_CLOCK__SPEED": str(demo.clock.speed),
        }
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
