"""CSV for spreadsheets: no cell of it is a formula, and a number comes back from it as it went in."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime

from serve_app.dialing.imports.reasons import REASONS
from serve_app.store.campaign_rows import LeadRow
from serve_app.store.imports import Imports
from serve_app.store.leads import Leads

# What a spreadsheet takes for the beginning of a formula (OWASP, "CSV Injection"); the wide forms in Japanese ones.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_E164 = re.compile(r"\+[1-9]\d{6,14}", re.ASCII)
_PAGE = 1000
_COLUMNS = (
    "phone",
    "first_name",
    "last_name",
    "email",
    "priority",
    "high_value",
    "tags",
    "time_zone",
    "region",
)
_RESULT_COLUMNS = (
    "lead_id",
    "state",
    "result",
    "reason",
    "attempts",
    "last_called_at",
    "next_at",
    "consent_at",
    "scrubbed_at",
)


def safe_cell(text: str) -> str:
    """With an apostrophe before what would be a formula. A phone number is none, and an apostrophe would break it.

    An import takes one apostrophe off, so a text that looks as if it had been through here gets one more.
    """
    if text.lstrip("'").startswith(FORMULA_STARTS) and not _E164.fullmatch(text):
        return f"'{text}"
    return text


def csv_lines(rows: Iterable[Sequence[str]], *, first: bool = False) -> bytes:
    """Rows as UTF-8; `first`: with the mark by which Excel knows UTF-8."""
    text = io.StringIO()
    csv.writer(text).writerows([safe_cell(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8-sig" if first else "utf-8")


async def export_leads(leads: Leads, campaign_id: str) -> AsyncIterator[bytes]:
    """All leads of a campaign with their results, a page at a time; what an import of the file would read as fields is
    named as it reads it, and the custom fields are columns of their own."""
    keys = await _custom_keys(leads, campaign_id)
    yield csv_lines([(*_COLUMNS, *keys, *_RESULT_COLUMNS)], first=True)
    async for page in _pages(leads, campaign_id):
        yield csv_lines(_cells(lead, keys) for lead in page)


async def fault_lines(imports: Imports, import_id: str) -> AsyncIterator[bytes]:
    """Why rows were not taken, in the order of the file."""
    yield csv_lines([("row", "column", "code", "explanation", "value")], first=True)
    after = 0
    while faults := await imports.errors(import_id, limit=_PAGE, after=after):
        yield csv_lines((str(f.row_no), f.column, f.code, REASONS.get(f.code, ""), f.value) for f in faults)
        after = faults[-1].row_no


async def _custom_keys(leads: Leads, campaign_id: str) -> list[str]:
    keys: dict[str, None] = {}
    async for page in _pages(leads, campaign_id):
        for lead in page:
            keys.update(dict.fromkeys(lead.custom_fields))
    # A custom field that is named like a column of ours would be two columns of one name.
    return [key for key in keys if key not in _COLUMNS and key not in _RESULT_COLUMNS]


async def _pages(leads: Leads, campaign_id: str) -> AsyncIterator[list[LeadRow]]:
    after: str | None = None
    while True:
        page, after = await leads.list(campaign_id, limit=_PAGE, after=after)
        yield page
        if after is None:
            return


def _cells(lead: LeadRow, keys: Sequence[str]) -> list[str]:
    return [
        lead.number,
        lead.first_name or "",
        lead.last_name or "",
        lead.email or "",
        str(lead.priority),
        "yes" if lead.high_value else "no",
        ", ".join(lead.tags),
        lead.zones[0] if lead.zones and len(lead.zones) == 1 else "",
        lead.region or "",
        *(_shown(lead.custom_fields.get(key)) for key in keys),
        lead.id,
        lead.state,
        lead.last_result or "",
        lead.last_reason or "",
        str(lead.attempts),
        _time(lead.last_called_at),
        _time(lead.next_at),
        _time(lead.consent_at),
        _time(lead.scrubbed_at),
    ]


def _shown(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _time(at: datetime | None) -> str:
    return "" if at is None else at.isoformat(timespec="seconds")
