"""What a campaign allows itself, within the law: a document, stored as JSON, validated when it is written.

The times are the callee's local times. The law of the callee's place always applies as well, and the stricter one wins,
so nothing here can make a call legal that is not; `consent: none` with its reason is the only statement that the dialer
takes on trust.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from serve_app.dialing.rules.hours import Week, parse_week
from serve_app.dialing.texts import PLAIN_TEXT

Purpose = Literal["marketing", "informational"]
ConsentKind = Literal["express", "written", "transactional"]

CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1, two letters")]

EVERYBODY = "*"
"""The scope of a consent that covers every campaign of the tenant."""


class Document(BaseModel):
    """Frozen; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConsentRule(Document):
    """Whether a recorded consent is needed: `by_law` (of the callee's place), or `none` for a stated reason."""

    required: Literal["by_law", "none"] = "by_law"
    reason: str = Field(
        "", max_length=500, pattern=PLAIN_TEXT, description="why calls without a recorded consent are lawful"
    )
    max_age_days: int | None = Field(None, ge=1, le=3650)

    @model_validator(mode="after")
    def _is_reasoned(self) -> Self:
        if self.required == "none" and not self.reason.strip():
            raise ValueError("say in `reason` why calls without a recorded consent are lawful, or require it by_law")
        return self


class CallingRules(Document):
    """When, where and how often a campaign calls. `countries` has no default: nobody is called by omission."""

    countries: tuple[CountryCode, ...] = Field(min_length=1)
    hours: Mapping[str, tuple[str, ...]] = Field(default_factory=lambda: {"mon-fri": ("09:00-19:00",)})
    observe_holidays: bool = Field(True, description="no calls on public holidays of the callee's place")
    min_hours_between_calls: float = Field(2, ge=0, le=720)
    max_per_24h: int | None = Field(2, ge=1, le=24, description="to one number, by all campaigns of the tenant")
    max_per_7d: int | None = Field(5, ge=1, le=100, description="to one number, by all campaigns of the tenant")
    max_lifetime: int | None = Field(8, ge=1, le=1000, description="to one number, by this campaign")
    purpose: Purpose = "marketing"
    consent: ConsentRule = ConsentRule()
    consent_scope: str = Field(
        "", max_length=100, pattern=PLAIN_TEXT, description="what consents must name, besides those for everything"
    )
    scrub_max_age_days: int | None = Field(None, ge=1, le=365, description="stricter than the law; empty: the law's")

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, hours: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        if not any(parse_week(hours)):
            raise ValueError("no hours are left to call in; name at least one day with a span of time")
        return hours

    @cached_property
    def week(self) -> Week:
        return parse_week(self.hours)

    @cached_property
    def rolling_caps(self) -> tuple[tuple[int, float], ...]:
        """(most calls, hours) of every rolling cap that is set."""
        caps = ((self.max_per_24h, 24.0), (self.max_per_7d, 168.0))
        return tuple((calls, hours) for calls, hours in caps if calls is not None)
