"""Variables in an agent's texts: `Hello {{first_name|there}}` says who the call is for, or what stands there instead.

Every variable has a fallback, for nothing is known of every callee. What a lead's fields say is data that came in a
file: one line of bounded length, without control characters and braces, and never a variable itself. Pure.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Mapping

VALUE_CHARS = 200
KNOWN = ("first_name", "last_name", "full_name", "goal")
"""Of the lead, and of its campaign. Numbers and addresses are not among them: the models need none."""
CUSTOM = "custom."
"""Before the name of a column of the lead's own: `custom.last_visit` for "Last visit"."""

_OPEN = "{{"
_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.]*)\s*(?:\|([^{}|]*))?\}\}")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


def has_variables(text: str) -> bool:
    return _OPEN in text


def check(text: str, *, most_chars: int) -> str:
    """The text, if every `{{` in it begins a variable that can be filled in. Raises ValueError with the remedy.

    `most_chars`: of the text with the longest values in it.
    """
    count = 0
    for match in _variables(text):
        name, fallback = match.group(1), match.group(2)
        if not (name in KNOWN or (name.startswith(CUSTOM) and name == CUSTOM + custom_name(name[len(CUSTOM) :]))):
            raise ValueError(f"unknown variable {name!r}: {_remedy(name)}")
        if fallback is None:
            raise ValueError(
                f"variable {name!r} has no fallback: write {{{{{name}|...}}}} with what stands there where it is "
                "not known; nothing after the bar is allowed"
            )
        count += 1
    if count and not _VARIABLE.sub("", text).strip():
        raise ValueError("it has nothing but variables: where none of them is known, nothing would be said")
    if count and len(text) + count * VALUE_CHARS > most_chars:
        raise ValueError(
            f"with {count} variables of up to {VALUE_CHARS} characters it may become longer than {most_chars}: "
            "shorten it, or use fewer variables"
        )
    return text


def render(text: str, values: Mapping[str, str]) -> str:
    """The text with the values, cleaned, in place of its variables."""
    return _VARIABLE.sub(lambda match: clean(values.get(match.group(1), "")) or (match.group(2) or ""), text)


def clean(value: str) -> str:
    """One line, of at most `VALUE_CHARS` characters."""
    kept = (" " if unicodedata.category(c)[0] in "CZ" else c for c in value[: 4 * VALUE_CHARS] if c not in "{}")
    return " ".join("".join(kept).split())[:VALUE_CHARS].rstrip()


def custom_name(column: str) -> str:
    """How a column is named in a variable: "Last visit" is `last_visit`."""
    return _NOT_IN_NAMES.sub("_", column.lower()).strip("_")


def values_of(
    first_name: str | None, last_name: str | None, custom_fields: Mapping[str, object], goal: str
) -> dict[str, str]:
    """What is known of a lead; fields that are no text, number or yes/no have no words and are left out."""
    known = {
        "first_name": first_name or "",
        "last_name": last_name or "",
        "full_name": " ".join(name for name in (first_name, last_name) if name),
        "goal": goal,
    }
    for column, value in custom_fields.items():
        if isinstance(value, bool):
            known[CUSTOM + custom_name(column)] = "yes" if value else "no"
        elif isinstance(value, str | int | float):
            known[CUSTOM + custom_name(column)] = str(value)
    return {name: value for name, value in known.items() if value}


def _variables(text: str) -> Iterator[re.Match[str]]:
    at = text.find(_OPEN)
    while at >= 0:
        match = _VARIABLE.match(text, at)
        if match is None:
            shown = text[at : at + 40]
            raise ValueError(f"{shown!r} is no variable: write {{{{first_name|there}}}}, or single braces")
        yield match
        at = text.find(_OPEN, match.end())


def _remedy(name: str) -> str:
    if name.startswith(CUSTOM):
        return f"the column is written {CUSTOM}{custom_name(name[len(CUSTOM) :]) or 'name'}"
    near = difflib.get_close_matches(name, KNOWN, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}There are {', '.join(KNOWN)}, and {CUSTOM}<column> for the lead's own fields"
