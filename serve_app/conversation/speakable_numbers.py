"""Figures in words, in the genders that Spanish and French need. The words are the Unicode CLDR's."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from unicode_rbnf import FormatPurpose, RbnfEngine

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable_words import wordings_of

Gender = Literal["masculine", "feminine"]

LONGEST_NUMBER = 15
"""Digits beyond which nobody says a number as one."""
# Groups of three between separators, then decimals. Both separators are in use for either.
_CONTINENTAL = (
    r"(?:\d{1,3}(?:[.,]\d{3})+(?!\d)(?:[.,]\d{1,2})?"
    r"|\d{1,3}(?:[ \u00a0\u202f]\d{3})+(?!\d)(?:,\d+)?"
    r"|\d+(?:[.,]\d+)?)"
)
NUMBER = {
    "en": r"(?:\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?)",
    "es": _CONTINENTAL,
    "fr": _CONTINENTAL,
}
_GROUPS = re.compile(r"\d{1,3}(?:[.,]\d{3})+")
_CARDINALS: dict[str, dict[Gender | None, str]] = {
    "en": dict.fromkeys((None, "masculine", "feminine"), "spellout-cardinal"),
    "es": {
        None: "spellout-numbering",
        "masculine": "spellout-cardinal-masculine",
        "feminine": "spellout-cardinal-feminine",
    },
    "fr": {
        None: "spellout-cardinal-masculine",
        "masculine": "spellout-cardinal-masculine",
        "feminine": "spellout-cardinal-feminine",
    },
}


class NumberWords:
    """One language's numbers."""

    def __init__(self, language: Language) -> None:
        self.pattern = NUMBER[language]
        self._english = language == "en"
        self._point = wordings_of(language).words["point"]
        self._cardinals = _CARDINALS[language]
        self._engine = RbnfEngine.for_language(language)

    def parse(self, written: str) -> str:
        """As written -> digits with at most one point: "1,250.50" -> "1250.50"."""
        if self._english:
            return written.replace(",", "")
        written = re.sub(r"\s", "", written)
        if _GROUPS.fullmatch(written):
            return re.sub(r"[.,]", "", written)
        head, _, tail = written.replace(",", ".").rpartition(".")
        return f"{head.replace('.', '')}.{tail}" if head else tail

    def say(self, number: str, gender: Gender | None = None) -> str:
        """A number as `parse` gives it. `gender`: of the noun behind it; None: it stands alone."""
        whole, _, decimals = number.partition(".")
        if not decimals:
            return self.cardinal(int(whole), gender) if len(whole) <= LONGEST_NUMBER else self.digits(whole)
        return f"{self.say(whole)} {self._point} {self._decimals(decimals)}"

    def cardinal(self, number: int, gender: Gender | None = None) -> str:
        return self._engine.format_number(number, ruleset_names=[self._cardinals[gender]]).text

    def _decimals(self, decimals: str) -> str:
        rest = decimals.lstrip("0")
        if self._english or len(rest) > 2 or not rest:
            return self.digits(decimals)
        return " ".join([*[self.cardinal(0)] * (len(decimals) - len(rest)), self.cardinal(int(rest))])

    def ordinal(self, number: int, gender: Gender = "masculine", *, adjective: bool = False) -> str:
        """`adjective`: before a noun, where that differs ("primer piso")."""
        forms = self._engine.format_number(number, FormatPurpose.ORDINAL).text_by_ruleset
        names = [f"spellout-ordinal-{gender}", "spellout-ordinal"]
        names = [f"spellout-ordinal-{gender}-adjective", *names] if adjective else names
        return next(forms[name] for name in names if name in forms)

    def year(self, number: int) -> str:
        return self._engine.format_number(number, FormatPurpose.YEAR).text if self._english else self.cardinal(number)

    def digits(self, digits: str) -> str:
        return " ".join(self.cardinal(int(digit)) for digit in digits)


@cache
def numbers_of(language: Language) -> NumberWords:
    """Reads the rules once: some milliseconds."""
    return NumberWords(language)
