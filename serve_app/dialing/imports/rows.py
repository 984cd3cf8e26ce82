"""Rows of a file: the values of a lead, or the column, the code and the value that kept it from becoming one.

Pure, and light to import: this runs in processes of its own. The codes are explained in `reasons`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import phonenumbers

from serve_app.dialing.imports.phone import read_number
from serve_app.store.import_rows import DEFAULT_PRIORITY, LeadValues, RowFault, RowResult

NAME_CHARS = 100
EMAIL_CHARS = 254
VALUE_CHARS = 200
"""Of a value that was refused, so much is kept for the report."""
_TAGS, _TAG_CHARS = 20, 50
_YES = frozenset({"yes", "y", "true", "1", "x", "ja", "oui", "si", "sí", "sim"})
_NO = frozenset({"no", "n", "false", "0", "nein", "non", "não", "nee"})
_CONSENTS = frozenset({"express", "written", "transactional"})
_EMAIL = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+\.[^@\s,;<>\".]+")
_ISO_REGION = re.compile(r"[A-Z]{2}-[A-Z0-9]{1,3}", re.ASCII)
_ESCAPED = re.compile("'+[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""What `export.safe_cell` made of what would have been a formula, or looked as if it had been made so."""
_NORTH_AMERICA = ("US", "CA")


class Layout(TypedDict):
    """How the rows of a file are read; plain values, because it goes to other processes."""

    columns: list[str]
    """The headers, in order."""
    fields: dict[str, int]
    """Target (`config.Target`) -> index of its column."""
    custom: list[tuple[int, str]]
    """Index of a column without a target, and its key in the custom fields."""
    region: str | None
    to_call: bool
    """False: numbers that are not to be called; nothing but the number is read."""
    row_bytes: int
    custom_field_bytes: int
    regions: dict[str, str]
    """Upper-case name or code of a state or province -> ISO 3166-2."""
    source: str
    """Where a consent came from, if no column says so."""
    now: str
    """ISO 8601: a consent is not from the future."""
    scrubbed_at: str | None
    """ISO 8601 in UTC: when the whole file was compared with the do-not-call registries."""


class _Refused(Exception):  # noqa: N818
    def __init__(self, target: str, code: str, value: str) -> None:
        self.target = target
        self.code = code
        self.value = value


class RowReader:
    """Reads the rows of one file."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._fields = layout["fields"]
        self._now = datetime.fromisoformat(layout["now"])
        self._zones: dict[str, str] = {}
        self._notes: list[str] = []
        """Of the row in hand."""

    def read(self, first_row: int, rows: Sequence[list[str] | None]) -> RowResult:
        """Read rows, the first of which has number `first_row` in the file. None: no CSV could be made of it."""
        accepted: list[LeadValues] = []
        faults: list[RowFault] = []
        blank = 0
        for row_no, cells in enumerate(rows, first_row):
            if cells is None:
                faults.append(RowFault(row_no, "", "row_unreadable", ""))
                continue
            if not any(cells) or not any(map(str.strip, cells)):
                blank += 1
                continue
            self._notes.clear()
            try:
                accepted.append(self._lead(row_no, cells))
            except _Refused as refused:
                faults.append(RowFault(row_no, self._header(refused.target), refused.code, refused.value[:VALUE_CHARS]))
        return RowResult(accepted, faults, blank)

    def _lead(self, row_no: int, cells: list[str]) -> LeadValues:
        layout = self._layout
        if len(cells) > len(layout["columns"]) and any(cells[len(layout["columns"]) :]):
            raise _Refused("", "too_many_cells", cells[len(layout["columns"])])
        if sum(map(len, cells)) * 4 > layout["row_bytes"]:
            size = sum(len(cell.encode()) for cell in cells)
            if size > layout["row_bytes"]:
                raise _Refused("", "row_too_large", f"{size} bytes")
        number = self._number(cells)
        if not layout["to_call"]:
            return LeadValues(row_no, number)
        first, last = self._names(cells)
        custom = self._custom(cells)
        fields = self._fields
        if fields.keys() <= _PLAIN:
            email = self._email(cells)
            rest: dict[str, Any] = {"scrubbed_at": layout["scrubbed_at"], "notes": tuple(self._notes)}
            return LeadValues(row_no, number, first, last, email, custom_fields=custom, **rest)
        kind, given_at, source = self._consent(cells)
        return LeadValues(
            row_no,
            number,
            first,
            last,
            self._email(cells),
            self._zone(cells),
            self._region(cells, number),
            self._priority(cells),
            self._flag(cells, "high_value"),
            self._tags(cells),
            custom,
            kind,
            given_at,
            source,
            self._moment(cells, "scrubbed_at") or layout["scrubbed_at"],
            tuple(self._notes),
        )

    def _number(self, cells: list[str]) -> str:
        region = self._layout["region"]
        raw = self._cell(cells, "number")
        if "country" in self._fields:
            region = self._country(cells, raw) or region
        number, code = read_number(raw, region, to_call=self._layout["to_call"])
        if number is None:
            raise _Refused("number", code, raw)
        return number

    def _country(self, cells: list[str], number: str) -> str | None:
        country = self._cell(cells, "country").upper()
        if not country or country in phonenumbers.SUPPORTED_REGIONS:
            return country or None
        if number.startswith("+"):
            return None  # the number says itself where it is at home
        raise _Refused("country", "country_unknown", country)

    def _names(self, cells: list[str]) -> tuple[str | None, str | None]:
        first, last = self._cell(cells, "first_name"), self._cell(cells, "last_name")
        if not first and not last:
            first, _, last = self._cell(cells, "full_name").partition(" ")
        for target, name in (("first_name", first), ("last_name", last)):
            if len(name) > NAME_CHARS:
                raise _Refused(target if target in self._fields else "full_name", "value_too_long", name)
        return first or None, last.strip() or None

    def _email(self, cells: list[str]) -> str | None:
        email = self._cell(cells, "email")
        if not email:
            return None
        if len(email) <= EMAIL_CHARS and _EMAIL.fullmatch(email):
            return email
        self._notes.append("email_not_kept")
        return None

    def _priority(self, cells: list[str]) -> int:
        text = self._cell(cells, "priority").removesuffix(".0")
        if not text:
            return DEFAULT_PRIORITY
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:3]) <= 10):
            raise _Refused("priority", "priority_invalid", text)
        return int(text)

    def _flag(self, cells: list[str], target: str) -> bool:
        text = self._cell(cells, target).lower()
        if text and text not in _YES and text not in _NO:
            raise _Refused(target, f"{target}_invalid", text)
        return text in _YES

    def _tags(self, cells: list[str]) -> str:
        text = self._cell(cells, "tags")
        if not text:
            return "[]"
        tags = list(dict.fromkeys(tag for part in re.split(r"[,;|]", text) if (tag := part.strip())))
        if len(tags) > _TAGS or any(len(tag) > _TAG_CHARS for tag in tags):
            raise _Refused("tags", "tags_invalid", text)
        return json.dumps(tags, ensure_ascii=False)

    def _zone(self, cells: list[str]) -> str | None:
        name = self._cell(cells, "time_zone")
        if not name:
            return None
        if name not in self._zones:
            self._zones[name] = _zones(name)
        if not self._zones[name]:
            raise _Refused("time_zone", "time_zone_unknown", name)
        return self._zones[name]

    def _region(self, cells: list[str], number: str) -> str | None:
        text = self._cell(cells, "region").upper()
        if not text:
            return None
        found = self._layout["regions"].get(text)
        if number.startswith("+1"):
            if found is None:
                raise _Refused("region", "region_unknown", text)
            return found
        if _ISO_REGION.fullmatch(text) and not text.startswith(_NORTH_AMERICA):
            return text
        self._notes.append("region_not_kept")
        return None

    def _consent(self, cells: list[str]) -> tuple[str | None, str | None, str | None]:
        kind = self._cell(cells, "consent").lower()
        kind = "express" if kind in _YES else "" if kind in _NO else kind
        if kind and kind not in _CONSENTS:
            raise _Refused("consent", "consent_invalid", kind)
        given_at = self._moment(cells, "consent_at")
        if kind and given_at is not None:
            return kind, given_at, self._cell(cells, "consent_source") or self._layout["source"]
        if kind:
            self._notes.append("consent_without_date")
        return None, None, None

    def _moment(self, cells: list[str], target: str) -> str | None:
        text = self._cell(cells, target)
        if not text:
            return None
        try:
            at = datetime.fromisoformat(text)
            at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # the first and the last day of time have no UTC everywhere
            raise _Refused(target, f"{target}_invalid", text) from None
        if at > self._now:
            raise _Refused(target, f"{target}_invalid", text)
        return at.isoformat()

    def _custom(self, cells: list[str]) -> str:
        width = len(cells)
        kept = {key: _clean(cells[index]) for index, key in self._layout["custom"] if index < width and cells[index]}
        if not kept:
            return "{}"
        document = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        if len(document) * 4 > self._layout["custom_field_bytes"]:
            size = len(document.encode())
            if size > self._layout["custom_field_bytes"]:
                raise _Refused("", "custom_fields_too_large", f"{size} bytes")
        return document

    def _cell(self, cells: list[str], target: str) -> str:
        index = self._fields.get(target, len(cells))
        return _clean(cells[index]) if index < len(cells) else ""

    def _header(self, target: str) -> str:
        index = self._fields.get(target)
        return "" if index is None else self._layout["columns"][index]


_PLAIN = frozenset({"number", "first_name", "last_name", "full_name", "email", "country"})


def _clean(cell: str) -> str:
    """Without spaces around, NUL (which PostgreSQL cannot keep) and the apostrophe that an export put before it."""
    cell = cell.strip()
    if "\0" in cell:
        cell = cell.replace("\0", "")
    return cell[1:] if cell[:1] == "'" and _ESCAPED.match(cell) else cell


def _zones(name: str) -> str:
    """The zone as the JSON list that a lead keeps; nothing for what is no place's zone."""
    if "/" not in name or name.startswith("Etc/"):
        return ""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ""
    return json.dumps([name])


def as_plain(result: RowResult) -> dict[str, Any]:
    """For `marshal`, which writes exact tuples only."""
    return {
        "accepted": [tuple(lead) for lead in result.accepted],
        "faults": [tuple(fault) for fault in result.faults],
        "blank": result.blank,
    }


def from_plain(document: dict[str, Any]) -> RowResult:
    return RowResult(
        list(map(LeadValues._make, document["accepted"])),
        list(map(RowFault._make, document["faults"])),
        document["blank"],
    )
