"""Where the owner of a number may be: every candidate zone and every candidate region.

A prefix is a hint, not an address: +1 709 has two zones, a Russian mobile sixteen, a toll-free number all of North
America's. Nothing is guessed: what may be, counts. The time zones are those of phonenumbers; of its place names only
the area codes of +1 are used (`area_codes.yaml`), because the data behind the rest takes 130 MB of memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import phonenumbers
from phonenumbers import PhoneNumberType, timezone
from phonenumbers.tzdata import TIMEZONE_DATA

from serve_app.dialing.rules.jurisdictions import area_codes

NANP = 1
# The longest prefix in the zone data of +1 is 7 digits, of any other country 9. Deciding between the countries that
# share a calling code needs no more; a test compares with the whole number.
NANP_DIGITS, DIGITS = 7, 9
CACHED = 65_536


@dataclass(frozen=True, slots=True)
class Place:
    """`zones`: IANA names; empty where none is known. `regions`: ISO 3166-1 or -2; empty for a number of no country."""

    zones: frozenset[str]
    regions: frozenset[str]
    country: str | None
    """Whose number it is (ISO 3166-1); of several that share it, the one that runs the numbering plan."""


def place_of(number: str) -> Place:
    """Of an E.164 number, whether or not it is assigned. Memoised by prefix; some microseconds where that is known."""
    known = number.startswith("+1") and number[2:5] in area_codes()
    digits = NANP_DIGITS if known else DIGITS
    # What is cut off is replaced, so that the cached answer cannot depend on it.
    return _place(number[: digits + 1], len(number))


@lru_cache(maxsize=CACHED)
def _place(prefix: str, length: int) -> Place:
    try:
        number = phonenumbers.parse(prefix.ljust(length, "2"), None)
    except phonenumbers.NumberParseException:
        return Place(frozenset(), frozenset(), None)
    regions = _regions(number, prefix)
    # The library names the main country of a calling code first.
    country = regions[0].partition("-")[0] if regions else None
    return Place(_zones(number), frozenset(regions), country)


def _zones(number: phonenumbers.PhoneNumber) -> frozenset[str]:
    code = number.country_code
    if code == NANP or phonenumbers.number_type(number) in (
        PhoneNumberType.FIXED_LINE,
        PhoneNumberType.FIXED_LINE_OR_MOBILE,
    ):
        found = timezone.time_zones_for_geographical_number(number)
    else:
        # A mobile, toll-free or unassigned number says no more than its country.
        found = TIMEZONE_DATA.get(str(code), ())
    return frozenset(zone for zone in found if zone != timezone.UNKNOWN_TIMEZONE)


def _regions(number: phonenumbers.PhoneNumber, prefix: str) -> Sequence[str]:
    code = number.country_code
    if code is None:
        return []
    if code == NANP and prefix[2:5] in area_codes():
        return sorted(area_codes()[prefix[2:5]])
    sharing = phonenumbers.region_codes_for_country_code(code)
    valid = [region for region in sharing if phonenumbers.is_valid_number_for_region(number, region)]
    return [region for region in valid or sharing if region != phonenumbers.REGION_CODE_FOR_NON_GEO_ENTITY]
