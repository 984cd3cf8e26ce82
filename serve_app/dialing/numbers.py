"""Phone numbers: E.164 with its plus inside Parley, and the carrier's form at the edge."""

from __future__ import annotations

from typing import Annotated

import phonenumbers
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from serve_app.errors import ParleyError
from serve_app.log import mask

__all__ = ["InvalidNumberError", "PhoneNumber", "is_valid", "mask", "parse_e164"]


class InvalidNumberError(ParleyError):
    """The text is not a phone number that can be dialled. `remedy` says what would be."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy


def parse_e164(text: str) -> str:
    """Parse an international number, spaces and punctuation allowed, to E.164. Raises InvalidNumberError.

    Only the length for the country is checked here. Whether the number is assigned at all (`is_valid`) is a question
    of the calling rules, because numbers reserved for tests and fiction are dialled on a simulated network.
    """
    cleaned = text.strip()
    if not cleaned.startswith("+"):
        raise InvalidNumberError(
            "the number has no country code", "write it in E.164, with + and country code, for example +12025550123"
        )
    try:
        number = phonenumbers.parse(cleaned, None)
    except phonenumbers.NumberParseException as error:
        raise InvalidNumberError(
            "this is not a phone number", "write it in E.164, with + and country code, for example +12025550123"
        ) from error
    if number.extension:
        raise InvalidNumberError("the number has an extension", "leave the extension out; it cannot be dialled")
    if not phonenumbers.is_possible_number(number):
        raise InvalidNumberError(
            f"the number has the wrong length for country code +{number.country_code}", "check its digits"
        )
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def is_valid(e164: str) -> bool:
    """True if the number lies in a range that its country has assigned."""
    return phonenumbers.is_valid_number(phonenumbers.parse(e164, None))


def _validated(text: str) -> str:
    try:
        return parse_e164(text)
    except InvalidNumberError as error:
        raise PydanticCustomError(
            "phone_number", "{message}", {"message": error.message, "remedy": error.remedy}
        ) from error


PhoneNumber = Annotated[str, Field(max_length=40, examples=["+12025550123"]), AfterValidator(_validated)]
"""A field of a model: `parse_e164`, with its remedy in the context of the error."""
