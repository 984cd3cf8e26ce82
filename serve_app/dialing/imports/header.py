"""Which column is what: guessed from the headers, or told by whoever sends the file."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.dialing.imports.config import TARGETS, ImportConfig
from serve_app.dialing.imports.refusal import ImportRefused

IGNORE = "ignore"
"""As a target: the column is not kept."""
CUSTOM = "custom"
"""As a target: the column is kept as a custom field under its header."""

_KEY_CHARS = 64
_NUMBER_LIKE = re.compile(r"['=\"]*\+?[\d ().\-/]{7,24}\"?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file. `fields`: target -> index; `custom`: index and key."""

    names: tuple[str, ...]
    has_header: bool
    fields: Mapping[str, int]
    custom: tuple[tuple[int, str], ...]

    def targets(self) -> dict[str, str]:
        """Header -> target, `custom` or `ignore`, as a mapping is told."""
        return targets_of(self.names, self.fields, self.custom)


def targets_of(names: Sequence[str], fields: Mapping[str, int], custom: Iterable[Sequence[Any]]) -> dict[str, str]:
    """`Columns.targets` of the plain values that an import keeps."""
    told = {index: target for target, index in fields.items()} | {index: CUSTOM for index, _ in custom}
    return {name: told.get(index, IGNORE) for index, name in enumerate(names)}


def columns_of(
    first_row: Sequence[str],
    config: ImportConfig,
    mapping: Mapping[str, str] | None = None,
    *,
    numbers_only: bool = False,
) -> Columns:
    """Read the header. `mapping` (header -> target, `custom` or `ignore`) wins over what is guessed.

    `numbers_only`: a do-not-call list; all but the number is left out. Raises ImportRefused.
    """
    if len(first_row) > config.limits.columns:
        raise ImportRefused(
            "too_many_columns",
            "file",
            f"it has {len(first_row)} columns, at most {config.limits.columns} are taken",
            "leave out what the calls do not need",
        )
    names, has_header = _names(first_row, config)
    fields = _guessed(names, first_row, has_header, config)
    dropped: set[int] = set()
    for name, target in (mapping or {}).items():
        index = _index(name, names)
        fields = {kept: at for kept, at in fields.items() if at != index}
        _check_target(name, target)
        if target in fields and _told(target, mapping or {}) > 1:
            raise ImportRefused(
                "mapping_twice", f"mapping.{name}", f"{target} is told of two columns", "choose one of them"
            )
        if target == IGNORE:
            dropped.add(index)
        elif target != CUSTOM:
            fields[target] = index
    if "number" not in fields:
        shown = ", ".join(names[:20])
        raise ImportRefused(
            "number_column_missing",
            "mapping",
            f"no column is known to hold phone numbers; the headers are: {shown}",
            'name it, for example {"Tel 2": "number"}',
        )
    if numbers_only:
        return Columns(names, has_header, {"number": fields["number"]}, ())
    used = set(fields.values()) | dropped
    custom = tuple((index, name[:_KEY_CHARS]) for index, name in enumerate(names) if index not in used)
    return Columns(names, has_header, fields, custom)


def _names(first_row: Sequence[str], config: ImportConfig) -> tuple[tuple[str, ...], bool]:
    known = {synonym for synonyms in config.headers.values() for synonym in synonyms}
    cells = [cell.replace("\0", "").strip() for cell in first_row]
    has_header = any(_plain(cell) in known for cell in cells) or not any(map(_NUMBER_LIKE.fullmatch, cells))
    if not has_header:
        return tuple(f"column {number}" for number in range(1, len(cells) + 1)), False
    names: list[str] = []
    for number, cell in enumerate(cells, 1):
        name = cell or f"column {number}"
        names.append(name if name not in names else f"{name} ({number})")
    return tuple(names), True


def _guessed(names: Sequence[str], first_row: Sequence[str], has_header: bool, config: ImportConfig) -> dict[str, int]:
    if not has_header:
        return {"number": max(range(len(first_row)), key=lambda at: _likeness(first_row[at].strip()))}
    at: dict[str, int] = {}
    for index, name in enumerate(names):
        at.setdefault(_plain(name), index)
    guessed: dict[str, int] = {}
    for target, synonyms in config.headers.items():
        found = next((at[synonym] for synonym in synonyms if synonym in at), None)
        if found is not None:
            guessed[target] = found
    if "first_name" in guessed or "last_name" in guessed:
        guessed.pop("full_name", None)
    return guessed


def _likeness(cell: str) -> tuple[bool, bool, int]:
    """How much it looks like a phone number: a date has fewer digits, and no plus."""
    digits = sum(char.isdigit() for char in cell)
    return _NUMBER_LIKE.fullmatch(cell) is not None, "+" in cell[:3], digits


def _plain(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(char for char in decomposed if char.isalnum())


def _index(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"the headers are: {', '.join(names[:20])}"
    raise ImportRefused("mapping_column_unknown", f"mapping.{name}", "the file has no such column", hint)


def _check_target(name: str, target: str) -> None:
    if target in TARGETS or target in (CUSTOM, IGNORE):
        return
    valid = (*TARGETS, CUSTOM, IGNORE)
    near = difflib.get_close_matches(target, valid, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"one of: {', '.join(valid)}"
    raise ImportRefused("mapping_target_unknown", f"mapping.{name}", f"there is no field '{target}'", hint)


def _told(target: str, mapping: Mapping[str, str]) -> int:
    return sum(1 for told in mapping.values() if told == target)
