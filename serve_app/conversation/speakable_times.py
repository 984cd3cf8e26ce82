"""Dates and times of day in words."""

from __future__ import annotations

import re

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable_names import Rule
from serve_app.conversation.speakable_numbers import numbers_of
from serve_app.conversation.speakable_words import one_of, wordings_of

_HALF = r"[aApP]\.?\s?[mM](?:\.|(?![\w.]))"
_TIME = rf"(?:(?:[01]?\d|2[0-4])(?::|\s?h\s?)[0-5]\d(?::[0-5]\d)?(?:\s?{_HALF})?|(?:1[0-2]|0?[1-9])\s?{_HALF})"
_HOURS_FR = r"(?:(?:[01]?\d|2[0-4])\s?h(?![\w/]))"
_PARTS = re.compile(
    rf"(?P<hour>\d{{1,2}})(?:(?::|\s?h\s?)(?P<minute>\d\d)?(?::(?P<second>\d\d))?)?\s?(?P<half>{_HALF})?"
)
_ISO_DATE = re.compile(r"(?<![\w/-])(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})(?![\w-])")
_FIGURES_DATE = re.compile(
    r"(?<![\w/.-])(?P<a>\d{1,2})(?P<sep>[/.-])(?P<b>\d{1,2})(?:(?P=sep)(?P<year>\d{4}|\d{2}))?(?!\w|[/.-]\d)"
)


def time_rules(language: Language) -> list[Rule]:
    clock = _Clock(language)
    one = _TIME if language == "en" else rf"(?:{_TIME}|{_HOURS_FR})" if language == "fr" else _TIME
    pattern = re.compile(
        rf"(?<![\w:.,/])(?:(?P<first>{one}|\d{{1,2}})(?P<dash>\s?[-–—]\s?))?(?P<last>{one})(?![^\W_]|:\d)"
    )
    return [(pattern, clock.read)]


class _Clock:
    def __init__(self, language: Language) -> None:
        self._language = language
        self._numbers = numbers_of(language)
        self._to = wordings_of(language).words["to"]

    def read(self, match: re.Match[str]) -> str | None:
        said = self._read(match["last"])
        if match["first"]:
            said = f"{self._read(match['first'])} {self._to} {said}"
        following = match.string[match.end() :].lstrip()
        # The full stop of "p.m." was the sentence's too.
        ends = match.group().endswith(".") and (not following or following[0].isupper())
        return f"{said}." if ends else said

    def _read(self, time: str) -> str:
        parts = _PARTS.fullmatch(time)
        if parts is None:
            return time
        hour, minute = int(parts["hour"]), int(parts["minute"] or 0)
        half = (parts["half"] or "").lower()[:1]
        said = {"en": self._english, "es": self._spanish, "fr": self._french}[self._language]
        words = said(hour, minute, half, bare=time.isdigit())
        return f"{words} {self._numbers.cardinal(int(parts['second']))}" if parts["second"] else words

    def _english(self, hour: int, minute: int, half: str, *, bare: bool) -> str:
        if not half and not bare and (hour > 12 or hour == 0):
            half = "p" if 12 <= hour < 24 else "a"
        hour = hour % 12 or 12
        past = f" oh {self._numbers.cardinal(minute)}" if 0 < minute < 10 else f" {self._numbers.cardinal(minute)}"
        said = self._numbers.cardinal(hour) + (past if minute else "")
        if half:
            return f"{said} {half.upper()} M"
        return said if minute or bare else f"{said} o'clock"

    def _spanish(self, hour: int, minute: int, half: str, *, bare: bool) -> str:
        said = self._numbers.cardinal(hour, "feminine")
        if minute:
            past = {15: "cuarto", 30: "media"}.get(minute, self._numbers.cardinal(minute))
            said += f" y {past}" if half or hour <= 12 else f" {self._numbers.cardinal(minute)}"
        if half == "a":
            return f"{said} de la mañana"
        if half == "p":
            return f"{said} de la {'tarde' if hour in (12, 1, 2, 3, 4, 5, 6, 7) else 'noche'}"
        return said

    def _french(self, hour: int, minute: int, half: str, *, bare: bool) -> str:
        said = f"{self._numbers.cardinal(hour, 'feminine')} heure{'s' if hour > 1 else ''}"
        if bare:
            said = self._numbers.cardinal(hour, "feminine")
        if minute:
            said += f" {self._numbers.cardinal(minute)}"
        if half == "a":
            return f"{said} du matin"
        if half == "p":
            return f"{said} {'du soir' if hour in (6, 7, 8, 9, 10, 11) else 'de l’après-midi'}"
        return said


def date_rules(language: Language) -> list[Rule]:
    calendar = _Calendar(language)
    rules: list[Rule] = [(_ISO_DATE, calendar.read_iso), (_FIGURES_DATE, calendar.read_figures)]
    wordings = wordings_of(language)
    months = one_of(wordings.months)
    if language == "en":
        short = rf"(?:{months}|(?:{one_of(wordings.month_abbreviations)})\b\.?)"
        end = r"(?:st|nd|rd|th)?(?![\w:]|[.,]\d|\s?[aApP]\.?[mM]\b)"
        year = r"(?:,?\s+(?P<year>\d{4})(?!\w|[.,]\d))?"
        month_first = rf"\b(?P<name>{short})\s+(?P<day>\d{{1,2}}){end}{year}"
        day_first = rf"(?<![\w.,:/])(?P<day>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<name>{short})(?!\w){year}"
        rules += [
            (re.compile(month_first), calendar.read_month_first),
            (re.compile(day_first), calendar.read_day_first),
        ]
    else:
        first = re.compile(rf"(?<![\w.,:/])1(?=\s+(?:de\s+)?(?:{months})\b)", re.IGNORECASE)
        rules.append((first, lambda _: calendar.first))
    return rules


class _Calendar:
    def __init__(self, language: Language) -> None:
        self._language = language
        self._numbers = numbers_of(language)
        self._wordings = wordings_of(language)
        self.first = "primero" if language == "es" else "premier"

    def read_iso(self, match: re.Match[str]) -> str | None:
        return self._said(int(match["day"]), int(match["month"]), match["year"])

    def read_figures(self, match: re.Match[str]) -> str | None:
        """Day first, but in English month first; without a year only as 05/07, and never with a point or a hyphen."""
        a, b, year = match["a"], match["b"], match["year"]
        if year is None and (match["sep"] != "/" or len(a) != 2 or len(b) != 2):
            return None
        month, day = (int(a), int(b)) if self._language == "en" and int(a) <= 12 else (int(b), int(a))
        if year is not None and len(year) == 2:
            year = f"20{year}"
        return self._said(day, month, year)

    def read_month_first(self, match: re.Match[str]) -> str | None:
        return self._said(int(match["day"]), self._month(match["name"]), match["year"])

    def read_day_first(self, match: re.Match[str]) -> str | None:
        day = int(match["day"])
        if not 1 <= day <= 31:
            return None
        the = "" if match.string[: match.start()].lower().endswith("the ") else "the "
        name = self._wordings.months[self._month(match["name"]) - 1]
        said = f"{the}{self._numbers.ordinal(day)} of {name}"
        return f"{said}, {self._numbers.year(int(match['year']))}" if match["year"] else said

    def _month(self, name: str) -> int:
        """A name or its first three letters."""
        return next(i for i, month in enumerate(self._wordings.months, 1) if month.startswith(name[:3]))

    def _said(self, day: int, month: int, year: str | None) -> str | None:
        if not (1 <= day <= 31 and 1 <= month <= 12):
            return None
        name, said_year = self._wordings.months[month - 1], self._numbers.year(int(year)) if year else ""
        if self._language == "en":
            return f"{name} {self._numbers.ordinal(day)}" + (f", {said_year}" if year else "")
        said_day = self.first if day == 1 else self._numbers.cardinal(day)
        of = " de " if self._language == "es" else " "
        return f"{said_day}{of}{name}" + (f"{of}{said_year}" if year else "")
