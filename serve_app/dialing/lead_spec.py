"""A lead as people and programs write it down, one at a time: validated here, whichever way it comes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, StringConstraints
from pydantic_core import PydanticCustomError

from serve_app.dialing.imports.config import import_config
from serve_app.dialing.numbers import PhoneNumber
from serve_app.dialing.texts import PLAIN_TEXT
from serve_app.store.campaign_rows import ConsentKind
from serve_app.store.leads import NewConsent, NewLead


def _place(name: str) -> str:
    try:
        if "/" in name and not name.startswith("Etc/"):
            ZoneInfo(name)
            return name
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    remedy = "give an IANA name such as America/New_York, not an abbreviation or an offset"
    raise PydanticCustomError("time_zone", "no place has this time zone", {"remedy": remedy})


def _small(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    most = import_config().limits.custom_field_bytes
    document = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
    if "\\u0000" in document:
        raise PydanticCustomError("nul", "they hold a NUL character", {"remedy": "leave it out"})
    if len(document.encode()) > most:
        raise PydanticCustomError(
            "custom_fields_too_large",
            "they are larger than {most} bytes as JSON",
            {"most": most, "remedy": "leave out what the call does not need"},
        )
    return fields


Zone = Annotated[str, Field(max_length=64, examples=["America/New_York"]), AfterValidator(_place)]
PersonName = Annotated[str, Field(max_length=100, pattern=PLAIN_TEXT)]
Tag = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=50, pattern=PLAIN_TEXT)]
Source = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500, pattern=PLAIN_TEXT)]


class ConsentSpec(BaseModel):
    """That the owner of the number agreed to be called; where nothing else is said, for any purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ConsentKind
    given_at: AwareDatetime = Field(description="not in the future")
    source: Source = Field(description="where and how it was given")
    scope: str = Field("*", min_length=1, max_length=200, pattern=PLAIN_TEXT)


class LeadSpec(BaseModel):
    """Someone to call."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: PhoneNumber
    first_name: PersonName | None = None
    last_name: PersonName | None = None
    email: str | None = Field(None, max_length=254, pattern=PLAIN_TEXT)
    time_zones: list[Zone] | None = Field(
        None, min_length=1, max_length=5, description="without them, those of the number's prefix"
    )
    region: str | None = Field(None, pattern=r"^[A-Z]{2}-[A-Z0-9]{1,3}$", description="ISO 3166-2, such as US-CA")
    priority: int = Field(5, ge=1, le=10)
    high_value: bool = False
    tags: list[Tag] = Field(default_factory=list, max_length=20)
    custom_fields: Annotated[dict[str, JsonValue], AfterValidator(_small)] = Field(default_factory=dict)
    consent: ConsentSpec | None = None
    scrubbed_at: AwareDatetime | None = Field(
        None, description="when the number was compared with the national do-not-call list; not in the future"
    )

    def future_field(self, now: datetime) -> str | None:
        """The field that holds a time which cannot be: evidence is not from the future."""
        if self.consent is not None and self.consent.given_at > now:
            return "consent.given_at"
        return "scrubbed_at" if self.scrubbed_at is not None and self.scrubbed_at > now else None

    def new_lead(self) -> NewLead:
        """For the store."""
        consent = self.consent
        return NewLead(
            number=self.number,
            first_name=self.first_name,
            last_name=self.last_name,
            email=self.email,
            zones=self.time_zones,
            region=self.region,
            priority=self.priority,
            high_value=self.high_value,
            tags=self.tags,
            custom_fields=self.custom_fields,
            scrubbed_at=self.scrubbed_at,
            consent=None if consent is None else NewConsent(**consent.model_dump()),
        )
