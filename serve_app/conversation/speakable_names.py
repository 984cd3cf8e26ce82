"""Addresses, phone numbers, codes, abbreviations and signs, as people say them."""

from __future__ import annotations

import re
from collections.abc import Callable

import phonenumbers

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable_numbers import numbers_of
from serve_app.conversation.speakable_words import one_of, wordings_of

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]]
"""What to look for, and what is said for it; None: it is something else."""

_LONGEST_PATH = 30
"""Characters of a path that somebody could remember."""
_TOP_LEVEL = "com|org|net|edu|gov|io|ai|co|app|dev|info|biz|health|care|es|fr|mx|ar|cl|uk|ca|us|eu|de|ch|be|it|pt"
_URL = re.compile(
    r"<?\b(?P<scheme>https?://)?(?:www\.)?"
    rf"(?P<host>[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\.(?(scheme)\w+|(?:{_TOP_LEVEL})))\b(?!@)(?P<port>:\d+)?"
    r"(?P<path>/[^\s<>()\[\]\"'*|?#]*[A-Za-z0-9])?/?(?P<rest>[?#][^\s<>()\[\]\"'*|]*[A-Za-z0-9=])?>?"
)
_EMAIL = re.compile(
    r"<?(?:mailto:)?(?P<address>[A-Za-z0-9](?:[^\W¼-¾⅐-↋]|[.+-])*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,})(?![^\W_])>?"
)
_PHONE = re.compile(r"(?<![\w.,/-])(?:\+ ?\d|\(\d|\d)(?:[ \u00a0().-]{0,2}\d){6,14}(?![\w])(?![.,/-]\d)")
_LOCAL_PHONE = re.compile(r"\d{3}[-.]\d{4}")
_VERSION = re.compile(r"(?<![\w.])(?:v\d+(?:\.\d+)+|\d+(?:\.\d+){2,})(?!\w)")
# Letters first, or figures in three groups: no number is written so.
_CODE = re.compile(
    r"(?<![^\W_])(?:[A-Z][^\W_]*\d[^\W_]*(?:-[^\W_]+)*"
    r"|[A-Z]+(?:-[^\W_]+)*-\d[^\W_]*(?:-[^\W_]+)*"
    r"|\d+(?:-\d+){2,})(?!\w)"
)
_REST = re.compile(r"(?<![^\W_])[^\W_]*\d[^\W_]*")
_FIGURES = re.compile(r"\d+")
_RUNS = re.compile(r"\d+|[½⅓⅔¼¾]|[^\W\d_½⅓⅔¼¾]+|-")


def address_rules(language: Language) -> list[Rule]:
    numbers, names = numbers_of(language), wordings_of(language).address

    def spell(text: str) -> str:
        parts = re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", text)
        said = [names.get(part, "") if not part.isalnum() else part for part in parts]
        return " ".join(_figures(part) if part.isdigit() else part for part in said if part)

    def _figures(digits: str) -> str:
        plain = len(digits) <= 2 and not (digits.startswith("0") and len(digits) > 1)
        return numbers.cardinal(int(digits)) if plain else numbers.digits(digits)

    def url(match: re.Match[str]) -> str:
        path = match["path"] or ""
        return spell(match["host"] + (path if len(path) <= _LONGEST_PATH else ""))

    return [(_EMAIL, lambda match: spell(match["address"])), (_URL, url)]


def phone_rules(language: Language) -> list[Rule]:
    numbers, wordings = numbers_of(language), wordings_of(language)
    national = re.compile(wordings.phone.digits)

    def group(digits: str) -> str:
        if not wordings.phone.pairs or len(digits) > 2 or digits.startswith("0"):
            return numbers.digits(digits)
        return numbers.cardinal(int(digits))

    def phone(match: re.Match[str]) -> str | None:
        written = match.group()
        digits = re.sub(r"\D", "", written)
        international = written.startswith("+")
        if not international and not national.fullmatch(digits) and not _LOCAL_PHONE.fullmatch(written):
            return None
        if re.fullmatch(r"\+? ?\d+", written):
            written = _grouped(written.replace(" ", ""), wordings.phone.region)
        said = ", ".join(group(digits) for digits in re.findall(r"\d+", written))
        return f"{wordings.words['plus']} {said}" if international else said

    return [(_PHONE, phone)]


def _grouped(number: str, region: str) -> str:
    """In the groups in which its country writes it; as it is where that is not known."""
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException:
        return number
    form = phonenumbers.PhoneNumberFormat
    return phonenumbers.format_number(parsed, form.INTERNATIONAL if number.startswith("+") else form.NATIONAL)


def code_rules(language: Language) -> tuple[list[Rule], list[Rule]]:
    """What has figures in it and is no number. First: what looks like a code at once ("AB-1234", "12-34-56", "2.0.1").
    Second: whatever nothing else wanted ("3D").
    """
    numbers, wordings = numbers_of(language), wordings_of(language)

    def figures(digits: str) -> str:
        if len(digits) > 2 or (digits.startswith("0") and len(digits) > 1):
            return ", ".join(numbers.digits(digits[i : i + 4]) for i in range(0, len(digits), 4))
        return numbers.cardinal(int(digits))

    def code(match: re.Match[str]) -> str | None:
        runs = _RUNS.findall(match.group())
        if runs[0] in wordings.currency_of:
            return None
        said = [figures(run) if run.isdigit() else wordings.fractions.get(run, run) for run in runs if run != "-"]
        return (", " if all(run.isdigit() or run == "-" for run in runs) else " ").join(said)

    def version(match: re.Match[str]) -> str | None:
        if re.fullmatch(numbers.pattern, match.group()):
            return None
        point = f" {wordings.address['.']} "
        return point.join(figures(part) for part in match.group().removeprefix("v").split("."))

    return [(_VERSION, version), (_CODE, code)], [(_REST, code), (_FIGURES, code)]


def word_rules(language: Language) -> list[Rule]:
    """Abbreviations and single signs."""
    wordings = wordings_of(language)
    meanings = {key.lower(): said for key, said in {**wordings.abbreviations, **wordings.titles}.items()}
    needs_number = {word.lower() for word in wordings.before_number}
    after_name = {key.lower(): said for key, said in wordings.after_name.items()}
    abbreviation = re.compile(rf"(?<![\w.])({one_of(tuple(meanings))})\.(?!\w)", re.IGNORECASE)
    signs = {sign: said for sign, said in {**wordings.symbols, **wordings.fractions}.items() if len(sign) == 1}
    phrases = {text: said for text, said in wordings.symbols.items() if len(text) > 1}
    sign = re.compile(
        rf"(?:{one_of(tuple(phrases))})(?!\w)|(?P<per>/(?=(?:{one_of(wordings.per_nouns)})\b))"
        rf"|[#/{''.join(map(re.escape, signs))}]"
    )

    def expand(match: re.Match[str]) -> str | None:
        text, short = match.string, match[1].lower()
        following = text[match.end() :].lstrip()
        if short in needs_number and not following[:1].isdigit():
            return None
        said = meanings[short]
        if short in after_name and (follows_a_name(text, match.start()) or not following[:1].isupper()):
            said = after_name[short]
        # The full stop of the abbreviation was the sentence's too.
        return said if following else f"{said}."

    def read_sign(match: re.Match[str]) -> str | None:
        text, found = match.string, match.group()
        if found in phrases:
            return phrases[found]
        before, after = text[: match.start()][-1:], text[match.end() : match.end() + 1]
        if match["per"]:
            return f" {wordings.words['per']} "
        if found == "#":
            return f"{wordings.words['number']} " if after.isdigit() else ""
        if found == "/":
            return f" {wordings.words['or']} " if before.isalnum() and after.isalnum() else " "
        return f" {signs[found]} ".removeprefix(" " if not before.strip() else "").removesuffix(
            " " if not after.strip() else ""
        )

    return [(abbreviation, expand), (sign, read_sign)]


def follows_a_name(text: str, position: int) -> bool:
    """Whether a capital or a figure stands before, but not as the first word: "on Main St.", "on 5th St." """
    words = re.findall(r"\S+", text[:position])
    return len(words) > 1 and (words[-1][0].isupper() or words[-1][0].isdigit()) and words[-1][-1:].isalnum()
