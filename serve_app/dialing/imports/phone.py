"""A cell of a spreadsheet as a phone number: E.164, or the code of what is wrong with it.

Spreadsheets damage numbers: a long one becomes 4.15555E+09 and has lost its last digits, a leading plus is eaten, an
apostrophe or ="..." is put around it. What can be undone without a guess is undone, the rest is refused: a number
that was guessed is somebody else's.
"""

from __future__ import annotations

import re

import phonenumbers
from phonenumbers import NumberParseException, PhoneNumberType, ValidationResult
from phonenumbers.shortnumberinfo import is_emergency_number

REASONS = {
    "number_missing": "the row has no phone number",
    "number_scientific": "a spreadsheet shortened the number (4.15555E+09): its last digits are lost; format the "
    "column as text and enter the number again",
    "number_several": "the cell holds several numbers: give each its own row",
    "number_not_a_number": "the cell holds something else than a phone number",
    "number_extension": "the number has an extension, which cannot be dialed: leave it out",
    "number_no_country": "the number has no country code: write it with + and country code, or tell the region",
    "number_wrong_length": "the number has too few or too many digits for its country",
    "number_short": "short numbers and service codes are not called",
    "number_emergency": "emergency numbers are not called",
    "number_unassigned": "no country has assigned this number",
    "number_premium": "premium-rate numbers are not called",
    "number_shared_cost": "shared-cost numbers are not called",
    "number_satellite": "satellite numbers are not called",
    "number_service": "voicemail boxes and pagers are not called",
}

_USUAL = re.compile(r"\+?[0-9 ().\-]{7,24}", re.ASCII)
_PUNCTUATION = str.maketrans("", "", " ().-")
_AROUND = " \t\r\n\v\f\0\u00a0\u200b\u200e\u200f\u202a\u202c\u202d\u2060\ufeff"
_FORMULA = re.compile(r'="?([^"]*)"?')
_FLOAT = re.compile(r"\+?\d{7,15}\.0", re.ASCII)
_LABEL = re.compile(r"(?:tel|telephone|phone|mobile|mob|cell)\s*[.:]\s*", re.IGNORECASE)
_SCIENTIFIC = re.compile(r"\+?\d(?:[.,]\d+)?E\+?\d+", re.IGNORECASE)
_BETWEEN_NUMBERS = re.compile(r"[;,|/\n]|\s(?:or|and|oder|und|ou|et|o|y)\s", re.IGNORECASE)
_LEAST_DIGITS = 7
_SHORT_DIGITS = 6
_REFUSED = {
    PhoneNumberType.PREMIUM_RATE: "number_premium",
    PhoneNumberType.SHARED_COST: "number_shared_cost",
    PhoneNumberType.PAGER: "number_service",
    PhoneNumberType.VOICEMAIL: "number_service",
}
# Country codes of satellite networks (ITU-T E.164 annex): no type of phonenumbers tells them.
_SATELLITE = frozenset({870, 881, 882, 883})


def read_number(cell: str, region: str | None, *, to_call: bool = True) -> tuple[str | None, str]:
    """(E.164, "") or (None, a key of `REASONS`). `region` (ISO 3166-1 alpha-2) is where national numbers are at home.

    `to_call` False: the number is to be kept from being called, so the right number of digits is all that it needs.
    """
    text = cell.strip(_AROUND)
    strange = False
    if _USUAL.fullmatch(text) is None or text.endswith(".0"):
        text = _undamaged(text)
        fault = _fault(text, region)
        if fault:
            return None, fault
        strange = any(char.isalpha() for char in text)
    else:
        text = text.translate(_PUNCTUATION)  # reading it is a third of what phonenumbers' parser does
    try:
        number = phonenumbers.parse(text, region)
    except NumberParseException as error:
        return None, _unparsed(error, text, region)
    if number.extension:
        return None, "number_extension"
    if strange:
        return None, "number_not_a_number"
    kind = phonenumbers.number_type(number)
    if kind == PhoneNumberType.UNKNOWN:
        restored = _with_plus(number, text)
        if restored is not None:
            number, kind = restored
        elif to_call or not phonenumbers.is_possible_number(number):
            return None, _invalid(number)
    if to_call and kind in _REFUSED:
        return None, _REFUSED[kind]
    if to_call and number.country_code in _SATELLITE:
        return None, "number_satellite"
    return f"+{number.country_code}{phonenumbers.national_significant_number(number)}", ""


def _undamaged(text: str) -> str:
    text = text.removeprefix("'").strip(_AROUND)
    formula = _FORMULA.fullmatch(text)
    if formula is not None:
        text = formula[1].strip(_AROUND)
    if _FLOAT.fullmatch(text):
        text = text[:-2]
    if text.lower().startswith("tel:"):
        text = text[4:]
    return _LABEL.sub("", text, count=1) if _LABEL.match(text) else text


def _fault(text: str, region: str | None) -> str:
    """What can be told before the digits are read: a code, or nothing."""
    digits = _digits(text)
    if not text:
        return "number_missing"
    if _SCIENTIFIC.fullmatch(text.replace(" ", "")):
        return "number_scientific"
    if not digits:
        return "number_not_a_number"
    numbers = [part for part in _BETWEEN_NUMBERS.split(text) if len(_digits(part)) >= _LEAST_DIGITS]
    if len(numbers) > 1:
        return "number_several"
    if len(digits) <= _SHORT_DIGITS and not any(char.isalpha() for char in text):
        emergency = region is not None and is_emergency_number(digits, region)
        return "number_emergency" if emergency else "number_short"
    return ""


def _digits(text: str) -> str:
    return "".join(char for char in text if char.isdigit())


def _unparsed(error: NumberParseException, text: str, region: str | None) -> str:
    kind = error.error_type
    if kind == NumberParseException.INVALID_COUNTRY_CODE:
        without_country = region is None and not text.startswith("+")
        return "number_no_country" if without_country else "number_unassigned"
    if kind == NumberParseException.NOT_A_NUMBER:
        return "number_not_a_number"
    return "number_wrong_length"


def _with_plus(number: phonenumbers.PhoneNumber, text: str) -> tuple[phonenumbers.PhoneNumber, int] | None:
    """The number with the plus that a spreadsheet ate, and its type.

    Only where the digits are too many for a national number: a shorter one might become a valid number of another
    country, which nobody meant.
    """
    if text.startswith("+") or phonenumbers.is_possible_number_with_reason(number) != ValidationResult.TOO_LONG:
        return None
    try:
        restored = phonenumbers.parse(f"+{_digits(text)}", None)
    except NumberParseException:
        return None
    kind = phonenumbers.number_type(restored)
    return None if kind == PhoneNumberType.UNKNOWN else (restored, kind)


def _invalid(number: phonenumbers.PhoneNumber) -> str:
    return "number_unassigned" if phonenumbers.is_possible_number(number) else "number_wrong_length"
