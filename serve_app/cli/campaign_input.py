"""What people write for `parley campaign`: a YAML file, a time, a status; read, or refused with what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import ValidationError

from serve_app.clock import SystemClock
from serve_app.dialing.campaign_spec import CampaignSpec
from serve_app.errors import ParleyError, SettingsError
from serve_app.paths import configs_dir
from serve_app.store.campaign_rows import CampaignStatus


def campaign_spec(file: Path) -> CampaignSpec:
    """Of a YAML file. Raises SettingsError, which names the field."""
    example = configs_dir() / "campaigns" / "spring-recall.yaml"
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not a text file in UTF-8; a campaign is a YAML file like {example}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{file}: expected the fields of one campaign; see {example}")
    try:
        return CampaignSpec.model_validate(document)
    except ValidationError as error:
        told = "\n  ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise SettingsError(f"{file} is not a valid campaign:\n  {told}\nAn example is {example}") from error


def utc_time(option: str, text: str) -> datetime:
    """Of an option like `--at`. Raises ParleyError."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ParleyError(f"{option} {text}: not a time; write it like 2027-01-11T09:00:00-05:00") from error
    if when.tzinfo is None:
        raise ParleyError(f"{option} {text}: it has no offset, so it could be any zone's; add one, like -05:00 or Z")
    return when.astimezone(UTC)


def past_time(option: str, text: str) -> datetime:
    """The same, of something that has happened. Raises ParleyError."""
    when = utc_time(option, text)
    if when > SystemClock().now():
        raise ParleyError(f"{option} {text}: it is in the future; check the date and its zone")
    return when


def campaign_status(text: str | None) -> CampaignStatus | None:
    """Of `--status`. Raises ParleyError."""
    known: tuple[CampaignStatus, ...] = ("draft", "scheduled", "running", "paused", "completed", "cancelled")
    for status in known:
        if text == status:
            return status
    if text is not None:
        raise ParleyError(f"--status {text}: not one of {', '.join(known)}")
    return None
