"""How a language says what is written in figures and signs. Data: `spoken/<language>.yaml`, checked when first read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, cached_property
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from serve_app.conversation.phrases import Language

OneAndMany = tuple[str, str]
WordName = Literal[
    "minus", "plus", "point", "to", "out_of", "or", "per", "number", "and_cents", "and_fraction", "of_amount"
]


class Currency(BaseModel):
    """`signs`: as written before or behind the amount."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    signs: tuple[str, ...]
    names: OneAndMany
    cents: OneAndMany
    feminine: bool = False


class Phone(BaseModel):
    """National numbers. `digits`: a regular expression. `pairs`: two digits are read as one number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    region: str
    digits: str
    pairs: bool


class Wordings(BaseModel):
    """One language."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    titles: Mapping[str, str]
    abbreviations: Mapping[str, str]
    kept_abbreviations: tuple[str, ...]
    before_number: tuple[str, ...]
    after_name: Mapping[str, str]
    months: tuple[str, ...]
    month_abbreviations: tuple[str, ...]
    words: Mapping[WordName, str]
    fractions: Mapping[str, str]
    scales: Mapping[str, OneAndMany]
    currencies: tuple[Currency, ...]
    units: Mapping[str, OneAndMany]
    symbols: Mapping[str, str]
    address: Mapping[str, str]
    per_nouns: tuple[str, ...]
    service_numbers: tuple[str, ...]
    year_after: tuple[str, ...]
    feminine: tuple[str, ...]
    masculine: tuple[str, ...]
    function_words: tuple[str, ...]
    phone: Phone

    @cached_property
    def currency_of(self) -> Mapping[str, Currency]:
        return {sign: currency for currency in self.currencies for sign in currency.signs}


@cache
def wordings_of(language: Language) -> Wordings:
    """Raises pydantic.ValidationError for a file that lacks a list."""
    file = resources.files("serve_app.conversation") / "spoken" / f"{language}.yaml"
    return Wordings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def one_of(texts: Mapping[str, object] | tuple[str, ...]) -> str:
    """A pattern for any of the texts, longest first."""
    return "|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True))
