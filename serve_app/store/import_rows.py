"""What an import writes, row by row. Without SQL, since the processes that read the rows are to start quickly."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

DEFAULT_PRIORITY = 5


class LeadValues(NamedTuple):
    """What a row says of a lead. `zones`, `tags` and `custom_fields` are JSON texts; times are ISO 8601 in UTC.

    Of a row of a do-not-call list only `row_no` and `number` are set.
    """

    row_no: int
    number: str
    first_name: str | None = None
    last_name: str | None = None
    email: str | None = None
    zones: str | None = None
    region: str | None = None
    priority: int = DEFAULT_PRIORITY
    high_value: bool = False
    tags: str = "[]"
    custom_fields: str = "{}"
    consent_kind: str | None = None
    consent_at: str | None = None
    consent_source: str | None = None
    scrubbed_at: str | None = None
    notes: tuple[str, ...] = ()
    """What was left out of it: codes."""

    def shown(self) -> dict[str, Any]:
        """What is set, for people."""
        values = {name: value for name, value in self._asdict().items() if value not in (None, (), "[]", "{}")}
        del values["row_no"]
        for name in ("zones", "tags", "custom_fields"):
            if name in values:
                values[name] = json.loads(values[name])
        return values


class RowFault(NamedTuple):
    """Why a row was not taken: the header of the column, a code, and what the cell held."""

    row_no: int
    column: str
    code: str
    value: str


class RowResult(NamedTuple):
    """What was read in a chunk of rows: every one is acceptable, faulty or blank.

    Whether its number is there already is asked when it is written.
    """

    accepted: list[LeadValues]
    faults: list[RowFault]
    blank: int
