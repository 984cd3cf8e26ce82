"""Numbers with what they count: money, percentages, units, years, ordinals, fractions, and ranges of them."""

from __future__ import annotations

import re

from serve_app.conversation.phrases import Language
from serve_app.conversation.speakable_names import Rule
from serve_app.conversation.speakable_numbers import Gender, NumberWords, numbers_of
from serve_app.conversation.speakable_words import Currency, Wordings, one_of, wordings_of

_ORDINAL = {
    "en": re.compile(r"(?<![\w.,])(?P<n>\d{1,3}(?:,\d{3})*|\d+)(?P<end>st|nd|rd|th)\b"),
    "es": re.compile(
        r"(?<![\w.,])(?P<n>\d{1,3})"
        r"(?:\.?(?P<sign>[ºª°])(?!\s?[CF]\b)|(?P<end>er|ero|ra|era|do|da|to|ta|mo|ma|vo|va|no|na)\b)"
    ),
    "fr": re.compile(r"(?<![\w.,])(?P<n>\d{1,3})(?P<end>ers?|res?|ères?|èmes?|es?|nde?|ds?)\b"),
}
_FEMININE_ENDS = ("ra", "era", "da", "ta", "ma", "va", "na", "re", "res", "ère", "ères", "nde")
_THOUSAND = ("thousand", "mil", "mille")
_NEXT_WORD = re.compile(r"\s+([^\W\d_]+)")
_LAST_WORD = re.compile(r"([^\W\d_]+),?\s+$")
_DECADE = re.compile(
    r"(?<![\w.,'’])(?P<full>(?:1[1-9]|20)\d0)['’]?s\b"
    r"|(?:['’]|(?<=the )|(?<=mid-)|(?<=late )|(?<=early ))(?P<short>[1-9]0)['’]?s\b"
)


class _Reader:
    """Reads the quantities of one language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.numbers: NumberWords = numbers_of(language)
        self.wordings: Wordings = wordings_of(language)
        w = self.wordings
        money, scale, number = one_of(tuple(w.currency_of)), one_of(w.scales), self.numbers.pattern
        letters, words = (one_of(tuple(s for s in w.scales if (len(s) < 3) is short)) for short in (True, False))
        units = one_of(tuple(unit for unit in w.units if unit not in w.currency_of))
        # "5 M" alone is no amount: "5M" and "5 M€" are.
        amount = rf"{number}(?:(?:\s?(?:{words})|(?:{letters})|\s(?:{letters})(?=\s?(?:{money})))(?![^\W_]))?"
        self.quantity = re.compile(
            rf"(?P<sign>(?<![\w)\]%€$£])[-−+±~≈]\s?)?(?<![^\W_])(?<!\d[.,:])"
            rf"(?P<before>(?:{money})\s?)?(?P<first>{amount})"
            rf"(?:(?:\s?(?:{money}|{units}))?\s?[-–—]\s?(?:{money})?\s?(?P<second>{amount}))?"
            rf"(?P<behind>\s?(?:{money}|{units}))?(?![.,:]?[^\W_])"
        )
        self._amount = re.compile(rf"(?P<number>{number})\s?(?P<scale>{scale})?")

    def read_quantity(self, match: re.Match[str]) -> str | None:
        first, second = match["first"], match["second"]
        sign = (match["before"] or match["behind"] or "").strip()
        if not sign and (_is_code(first) or first.endswith("K") or first in self.wordings.service_numbers):
            return None
        said = self._ranged(match, first, second, sign) if second else self._one(match, first, sign)
        lead = (match["sign"] or "").strip()
        if not lead:
            return said
        word = self.wordings.words["minus"] if lead in "-−" else self.wordings.symbols.get(lead, "")
        return f"{word} {said}"

    def _ranged(self, match: re.Match[str], first: str, second: str, sign: str) -> str:
        """The sign stands at one end only, and so does the scale: "$10-15", "10-12 km", "2-3 million"."""
        low, high = self._amount.fullmatch(first), self._amount.fullmatch(second)
        rising = low and high and float(self.numbers.parse(low["number"])) < float(self.numbers.parse(high["number"]))
        between = f" {self.wordings.words['to']} " if rising else ", "
        return f"{self._one(match, first, '', sign)}{between}{self._one(match, second, sign)}"

    def _one(self, match: re.Match[str], amount: str, sign: str, agrees_with: str = "") -> str:
        parts = self._amount.fullmatch(amount)
        if parts is None:
            return amount
        number, scale = self.numbers.parse(parts["number"]), parts["scale"]
        counted = sign or agrees_with
        if (currency := self.wordings.currency_of.get(counted)) is not None:
            return self._money(number, scale, currency) if sign else self._scaled(number, scale, _gender(currency))[0]
        if counted:
            one, many = self.wordings.units[counted]
            said = self._scaled(number, scale, self._gender_of(many))[0]
            return f"{said} {self._form(number if scale is None else '2', one, many)}" if sign else said
        if scale is None and self._is_year(match, parts["number"]):
            return self.numbers.year(int(number))
        return self._scaled(number, scale, self._gender_behind(match))[0]

    def _scaled(self, number: str, scale: str | None, gender: Gender | None) -> tuple[str, bool]:
        """The number in words, and whether a noun behind it needs its "of" ("un millón de euros")."""
        if scale is None:
            whole = "." not in number and int(number) >= 1_000_000 and int(number) % 1_000_000 == 0
            return self.numbers.say(number, gender), whole
        one, many = self.wordings.scales[scale]
        if one in _THOUSAND:
            # "Mil", "mille": never "un mil"; and 2.5 thousand are two thousand five hundred.
            return self.numbers.say(_times_thousand(number), gender), False
        return f"{self.numbers.say(number, 'masculine')} {self._form(number, one, many)}", True

    def _money(self, number: str, scale: str | None, currency: Currency) -> str:
        whole, _, cents = number.partition(".")
        names, gender = currency.names, _gender(currency)
        if scale is None and len(cents) in (1, 2):
            cents_n = int(cents.ljust(2, "0"))
            said_cents = f"{self.numbers.cardinal(cents_n, 'masculine')} {currency.cents[cents_n != 1]}"
            if int(whole) == 0 and cents_n:
                return said_cents
            said = self._named(*self._scaled(whole, None, gender), self._form(whole, *names))
            return f"{said} {self.wordings.words['and_cents']} {said_cents}" if cents_n else said
        return self._named(*self._scaled(number, scale, gender), self._form(number if scale is None else "2", *names))

    def _named(self, said: str, needs_of: bool, name: str) -> str:
        of = self.wordings.words["of_amount"] if needs_of else ""
        if not of:
            return f"{said} {name}"
        return f"{said} d'{name}" if self.language == "fr" and name[0] in "aeiou" else f"{said} {of} {name}"

    def _form(self, number: str, one: str, many: str) -> str:
        """French counts in the plural from two on, the others whatever is not one."""
        return one if (float(number) < 2 if self.language == "fr" else number == "1") else many

    def _gender_of(self, noun: str) -> Gender:
        w, noun = self.wordings, noun.split(" ")[0].lower()
        if noun in w.masculine:
            return "masculine"
        ends = ("a", "as", "ción", "ciones", "sión", "siones", "dad", "dades")
        feminine = noun in w.feminine or (self.language == "es" and noun.endswith(ends))
        return "feminine" if feminine else "masculine"

    def _gender_behind(self, match: re.Match[str]) -> Gender | None:
        """Of the noun that the number counts; None where there is none."""
        following = _NEXT_WORD.match(match.string, match.end())
        if following is None or following[1].lower() in self.wordings.function_words:
            return None
        return self._gender_of(following[1])

    def _is_year(self, match: re.Match[str], number: str) -> bool:
        if not re.fullmatch(r"1[1-9]\d\d|20\d\d", number):
            return False
        if number >= "1900":
            return True
        before = _LAST_WORD.search(match.string[: match.start()])
        return before is not None and before[1].lower() in self.wordings.year_after

    def read_ordinal(self, match: re.Match[str]) -> str:
        end = match["end"] or ""
        feminine = end in _FEMININE_ENDS or match.groupdict().get("sign") == "ª"
        adjective = end == "er" and self.language == "es"
        number = int(match["n"].replace(",", ""))
        return self.numbers.ordinal(number, "feminine" if feminine else "masculine", adjective=adjective)

    def read_decade(self, match: re.Match[str]) -> str:
        year = self.numbers.year(int(match["full"])) if match["full"] else self.numbers.cardinal(int(match["short"]))
        return f"{year[:-1]}ies" if year.endswith("y") else f"{year}s"

    def read_fraction(self, match: re.Match[str]) -> str:
        said = self.wordings.fractions[match["part"]]
        if not match["whole"]:
            return said
        return f"{self.numbers.cardinal(int(match['whole']))} {self.wordings.words['and_fraction']} {said}"

    def read_out_of(self, match: re.Match[str]) -> str:
        got, of = (self.numbers.say(part) for part in (match["got"], match["of"]))
        return f"{got} {self.wordings.words['out_of']} {of}"


def _is_code(amount: str) -> bool:
    """An order number, a postal code: its digits are said one by one."""
    return amount.isdigit() and (len(amount) >= 7 or (len(amount) > 1 and amount[0] == "0"))


def _gender(currency: Currency) -> Gender:
    return "feminine" if currency.feminine else "masculine"


def _times_thousand(number: str) -> str:
    whole, _, decimals = number.partition(".")
    return (f"{whole}{decimals.ljust(3, '0')[:3]}".lstrip("0") or "0") + (f".{decimals[3:]}" if decimals[3:] else "")


def quantity_rules(language: Language) -> list[Rule]:
    reader = _Reader(language)
    fraction = re.compile(
        rf"(?<![\w.,/])(?:(?P<whole>\d{{1,3}})(?:\s|(?=\D)))?(?P<part>{one_of(reader.wordings.fractions)})(?!\d|/\d)"
    )
    out_of = re.compile(r"(?<![\w.,/])(?P<got>\d{1,3})/(?P<of>\d{1,3})(?![\w/]|[.,]\d)")
    rules: list[Rule] = [(_ORDINAL[language], reader.read_ordinal), (fraction, reader.read_fraction)]
    if language == "en":
        rules.append((_DECADE, reader.read_decade))
    return [*rules, (out_of, reader.read_out_of), (reader.quantity, reader.read_quantity)]
