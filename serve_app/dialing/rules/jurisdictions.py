"""The law of places as dated data: `configs/calling_rules/*.yaml`, read and validated once.

Seed data for a lawyer to sign off, not legal advice. Every version of a place's rules says from when on it applies
and where it was read. A place that has no file has the rules of `default`; what is unknown is strict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import holidays
import yaml
from pydantic import Field, ValidationError, field_validator

from serve_app.dialing.rules.calling_rules import ConsentKind, Document, Purpose
from serve_app.dialing.rules.hours import Week, parse_week
from serve_app.errors import SettingsError
from serve_app.paths import configs_dir

DEFAULT = "default"
AREA_CODES = "area_codes.yaml"
PURPOSES = frozenset(get_args(Purpose))


class LegalCap(Document):
    """At most so many calls to a number within any so many hours."""

    calls: int = Field(ge=1)
    hours: int = Field(ge=1)


class LegalRules(Document):
    """One version of a place's rules. What a state's says nothing of (consent, scrubbing), its country's says."""

    effective_from: date
    source: str = Field(min_length=8)
    hours: Mapping[str, tuple[str, ...]]
    holidays: Literal["open", "closed"] = "open"
    caps: tuple[LegalCap, ...] = ()
    consent: Mapping[Purpose, tuple[ConsentKind, ...]] = Field(default_factory=dict)
    scrub_max_age_days: int | None = Field(None, ge=1)

    @field_validator("hours")
    @classmethod
    def _are_hours(cls, hours: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        parse_week(hours)
        return hours


class PlaceRules(Document):
    """A place (ISO 3166-1 or -2), the places that share its rules, and the versions of these."""

    region: str = Field(pattern=r"^([A-Z]{2}(-[A-Z0-9]{1,3})?|default)$")
    name: str
    shared_by: tuple[str, ...] = ()
    versions: tuple[LegalRules, ...] = Field(min_length=1)

    @field_validator("versions")
    @classmethod
    def _in_order(cls, versions: tuple[LegalRules, ...]) -> tuple[LegalRules, ...]:
        dates = [version.effective_from for version in versions]
        if dates != sorted(set(dates)):
            raise ValueError("the versions must be in the order of effective_from, one for each date")
        return versions


@dataclass(frozen=True, eq=False)
class Jurisdiction:
    """A place with its rules, parsed. Compared and hashed by identity: there is one for each place."""

    region: str
    versions: tuple[tuple[LegalRules, Week], ...]

    def rules(self, day: date) -> LegalRules | None:
        """The version in force on a day; None: none yet, so nothing is allowed."""
        found = self._at(day)
        return found[0] if found is not None else None

    def week(self, day: date) -> Week | None:
        found = self._at(day)
        return found[1] if found is not None else None

    def _at(self, day: date) -> tuple[LegalRules, Week] | None:
        return next((v for v in reversed(self.versions) if v[0].effective_from <= day), None)


class Jurisdictions:
    """All places that are known."""

    def __init__(self, places: Sequence[PlaceRules]) -> None:
        """Raises ValueError: a place appears twice, a country lacks a rule, a calendar of holidays is missing."""
        self._known: dict[str, Jurisdiction] = {}
        for place in places:
            versions = tuple((version, parse_week(version.hours)) for version in place.versions)
            for region in (place.region, *place.shared_by):
                if region in self._known:
                    raise ValueError(f"{region} has rules twice")
                if "-" not in region and any(set(version.consent) != PURPOSES for version in place.versions):
                    raise ValueError(f"{region} does not say what consent it demands for each of {sorted(PURPOSES)}")
                if region != DEFAULT and any(version.holidays == "closed" for version in place.versions):
                    _check_calendar(region)
                self._known[region] = Jurisdiction(region, versions)
        if DEFAULT not in self._known:
            raise ValueError("there are no rules for `default`, the places without rules of their own")
        self.caps = sorted({(c.calls, float(c.hours)) for p in places for v in p.versions for c in v.caps})
        """Every cap of the law anywhere: (most calls, hours)."""
        self._parts: dict[str, tuple[str, ...]] = {}
        for region in sorted(self._known):
            country, _, part = region.partition("-")
            if part:
                self._parts[country] = (*self._parts.get(country, ()), region)

    @cache  # noqa: B019  (one object for the life of the process)
    def regions(self, regions: frozenset[str]) -> frozenset[str]:
        """The places whose rules and calendars apply together to somebody who may be in any of `regions`.

        A country without a part of it is every part that has rules: its strictest mixture.
        """
        countries = {region.partition("-")[0] for region in regions}
        parts = {region for region in regions if "-" in region}
        for country in countries - {part.partition("-")[0] for part in parts}:
            parts.update(self._parts.get(country, ()))
        return frozenset(countries | parts)

    @cache  # noqa: B019
    def of(self, regions: frozenset[str]) -> tuple[Jurisdiction, ...]:
        """The rules that apply together, countries before their parts; never empty."""
        known = [self._known[region] for region in sorted(self.regions(regions)) if region in self._known]
        # A state without rules of its own has its country's; a country without them has the default.
        return (*known, self._known[DEFAULT]) if self.lawless(regions) or not known else tuple(known)

    @cache  # noqa: B019
    def lawless(self, regions: frozenset[str]) -> frozenset[str]:
        """The countries among them that have no rules of their own."""
        return frozenset(r for r in self.regions(regions) if "-" not in r and r not in self._known)


@cache
def shipped() -> Jurisdictions:
    """The rules that come with Parley, or that stand in their place in `configs/`. Raises SettingsError."""
    return load(configs_dir() / "calling_rules")


def load(folder: Path) -> Jurisdictions:
    """Read every YAML file of a folder. Raises SettingsError, which names file and field."""
    places: list[PlaceRules] = []
    for file in sorted(folder.glob("*.yaml")):
        if file.name == AREA_CODES:
            continue
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
            if not isinstance(document, list):
                raise ValueError("the file must be a list of places")
            places += [PlaceRules.model_validate(place) for place in document]
        except (yaml.YAMLError, ValidationError, ValueError) as error:
            raise SettingsError(f"{file}: {error}") from error
    try:
        return Jurisdictions(places)
    except ValueError as error:
        raise SettingsError(f"{folder}: {error}") from error


@cache
def area_codes() -> Mapping[str, frozenset[str]]:
    """Area codes of +1 and the states or provinces that they belong to. Raises SettingsError."""
    file = configs_dir() / "calling_rules" / AREA_CODES
    found: dict[str, set[str]] = {}
    try:
        for region, codes in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            for code in codes:
                found.setdefault(str(code), set()).add(region)
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise SettingsError(f"{file}: {error}") from error
    return {code: frozenset(regions) for code, regions in found.items()}


def _check_calendar(region: str) -> None:
    country, _, part = region.partition("-")
    known = holidays.list_supported_countries()
    if country not in known or (part and part not in known[country]):
        raise ValueError(f"{region} is closed on holidays, but no calendar of them is known")
