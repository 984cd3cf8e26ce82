"""Phone numbers out of spreadsheets: what can be undone without a guess is undone, the rest is refused by name."""

from __future__ import annotations

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.imports.phone import REASONS, read_number

LONDON, BERLIN, WASHINGTON = "+442071838750", "+49301234567", "+12025550123"

TAKEN = [
    ("+12025550123", None, WASHINGTON),
    ("(202) 555-0123", "US", WASHINGTON),
    ("202.555.0123", "US", WASHINGTON),
    ("1 202 555 0123", "US", WASHINGTON),
    # Excel: text forced by an apostrophe or a formula, a plus that was eaten, a number that became a float.
    ("'+12025550123", None, WASHINGTON),
    ('="+12025550123"', None, WASHINGTON),
    ("442071838750", "US", LONDON),
    ("2025550123.0", "US", WASHINGTON),
    ("\ufeff\u202a+12025550123\u202c ", None, WASHINGTON),
    ("tel:+12025550123", None, WASHINGTON),
    ("Tel.: 030 1234567", "DE", BERLIN),
    ("030/1234567", "DE", BERLIN),
    ("0049 30 1234567", "DE", BERLIN),
    ("011 49 30 1234567", "US", BERLIN),
    ("+44 (0)20 7183 8750", None, LONDON),
    ("１２０２５５５０１２３", "US", WASHINGTON),
]

REFUSED = [
    ("", "US", "number_missing"),
    ("  '", "US", "number_missing"),
    ("4.15555E+09", "US", "number_scientific"),
    ("4,15555E+09", "DE", "number_scientific"),
    ("1e10", "US", "number_scientific"),
    ("202-555-0123 / 212-555-0123", "US", "number_several"),
    ("2025550123;2125550123", "US", "number_several"),
    ("2025550123 or 2125550123", "US", "number_several"),
    ("2025550123\n2125550123", "US", "number_several"),
    ("n/a", "US", "number_not_a_number"),
    ("call John 2025550123", "US", "number_not_a_number"),
    ("1-800-FLOWERS", "US", "number_not_a_number"),
    ("2025550123 ext 5", "US", "number_extension"),
    ("2025550123x5", "US", "number_extension"),
    ("2025550123", None, "number_no_country"),
    ("+1202555012", "US", "number_wrong_length"),
    ("202555012", "US", "number_wrong_length"),
    ("20255501234567890", "US", "number_wrong_length"),
    ("12345", "US", "number_short"),
    ("911", "US", "number_emergency"),
    ("112", "DE", "number_emergency"),
    ("+999123456789", None, "number_unassigned"),
    ("+19995550123", None, "number_unassigned"),
    ("9005550123", "US", "number_premium"),
    ("0900 1234567", "DE", "number_premium"),
    ("0180 5 123456", "DE", "number_shared_cost"),
    ("+881612345678", None, "number_satellite"),
]


@pytest.mark.parametrize(("cell", "region", "number"), TAKEN)
def test_a_number_that_can_be_read(cell: str, region: str | None, number: str) -> None:
    assert read_number(cell, region) == (number, "")


@pytest.mark.parametrize(("cell", "region", "code"), REFUSED)
def test_a_number_that_cannot_be_called(cell: str, region: str | None, code: str) -> None:
    assert read_number(cell, region) == (None, code)


def test_every_reason_but_one_is_shown_here() -> None:
    shown = {code for _, _, code in REFUSED}
    # Numbers of voicemail boxes and pagers are told by type alone; the test below is about types.
    assert shown == set(REASONS) - {"number_service"}


@pytest.mark.parametrize("kind", [phonenumbers.PhoneNumberType.PAGER, phonenumbers.PhoneNumberType.VOICEMAIL])
def test_pagers_and_voicemail_boxes_are_refused(kind: int) -> None:
    region = next(r for r in sorted(phonenumbers.SUPPORTED_REGIONS) if phonenumbers.example_number_for_type(r, kind))
    example = phonenumbers.example_number_for_type(region, kind)
    assert example is not None
    cell = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
    assert read_number(cell, None) == (None, "number_service")


def test_a_plus_is_not_restored_where_it_would_make_a_stranger_of_a_wrong_number() -> None:
    # With a plus this is a valid number of Denmark, but ten digits are as many as a number in the USA has.
    assert phonenumbers.is_valid_number(phonenumbers.parse("+4520123456"))
    assert read_number("4520123456", "US") == (None, "number_unassigned")


def test_a_list_of_numbers_not_to_call_takes_what_could_be_a_number() -> None:
    assert read_number("9005550123", "US", to_call=False) == ("+19005550123", "")
    assert read_number("+19995550123", None, to_call=False) == ("+19995550123", "")
    assert read_number("+1999555012", None, to_call=False) == (None, "number_wrong_length")


@given(st.text(max_size=40), st.sampled_from(["US", "DE", "GB", "IN", None]))
def test_any_text_is_a_callable_number_or_has_a_reason(cell: str, region: str | None) -> None:
    number, code = read_number(cell, region)
    if number is None:
        assert code in REASONS
    else:
        assert code == ""
        assert phonenumbers.is_valid_number(phonenumbers.parse(number, None))
        assert read_number(number, None) == (number, ""), "what was read is read again in the same way"
