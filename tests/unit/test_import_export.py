"""Exports: no cell is a formula, and what goes out comes in again as it was."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.export import FORMULA_STARTS, csv_lines, export_leads, fault_lines, safe_cell
from serve_app.dialing.imports.header import columns_of
from serve_app.dialing.imports.intake import ImportOptions, create_import, make_ready
from serve_app.dialing.imports.layout import make_layout
from serve_app.dialing.imports.phone import read_number
from serve_app.dialing.imports.rows import RowReader
from serve_app.dialing.imports.runner import run_import
from serve_app.store.db import Database
from serve_app.store.imports import Imports
from serve_app.store.leads import Leads, NewConsent, NewLead
from serve_app.store.objects import ObjectStore
from tests.unit.test_import_runs import TENANT, add_campaign, leads_of, objects

pytest_plugins = ("tests.unit.store_fixtures",)
__all__ = ["objects"]


@given(st.one_of(st.text(max_size=20), st.sampled_from(FORMULA_STARTS).flatmap(lambda s: st.text().map(s.__add__))))
def test_no_cell_begins_like_a_formula(text: str) -> None:
    cell = safe_cell(text)
    if cell.startswith(FORMULA_STARTS):
        assert cell[0] == "+" and cell[1:].isascii() and cell[1:].isdigit() and 7 <= len(cell[1:]) <= 15


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_a_text_comes_back_as_it_was(text: str) -> None:
    columns = columns_of(["phone", "note"], import_config())
    layout = make_layout(
        names=list(columns.names),
        fields=dict(columns.fields),
        custom=list(columns.custom),
        region=None,
        to_call=True,
        source="",
        now="2026-01-01T00:00:00+00:00",
        config=import_config(),
    )
    document = csv_lines([("phone", "note"), ("+12025550123", text.strip())], first=True).decode("utf-8-sig")
    rows: list[list[str] | None] = [*csv.reader(io.StringIO(document, newline=""))]
    (lead,) = RowReader(layout).read(1, rows[1:]).accepted
    custom = lead.shown().get("custom_fields", {"note": ""})
    assert custom == {"note": text.strip()}


def test_a_number_goes_out_and_comes_in_unchanged() -> None:
    assert safe_cell("+12025550123") == "+12025550123"
    assert read_number(safe_cell("+12025550123"), None) == ("+12025550123", "")
    assert safe_cell("+1+1") == "'+1+1" and safe_cell("+1234567890123456") == "'+1234567890123456"


async def test_an_export_is_imported_into_another_campaign(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign, other = await add_campaign(db), await add_campaign(db, "other")
    consent = NewConsent("written", datetime(2026, 1, 31, tzinfo=UTC), "form")
    leads = [
        NewLead(
            number="+12025550100",
            first_name="=cmd|' /C calc'!A0",
            last_name="@SUM(1)",
            email="ada@example.com",
            zones=["America/New_York"],
            region="US-NY",
            priority=9,
            high_value=True,
            tags=["a", "b c"],
            custom_fields={"company": "-ACME", "note": 'x "y", z\nw', "lead_id": "ours"},
            consent=consent,
        ),
        *(NewLead(f"+1202555{n:04d}", custom_fields={"company": f"C{n}"}) for n in range(200, 1300)),
    ]
    await Leads(db, TENANT).add(campaign, leads)
    path = tmp_path / "export.csv"
    path.write_bytes(b"".join([part async for part in export_leads(Leads(db, TENANT), campaign)]))
    exported = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    assert len(exported) == 1101
    assert exported[0]["first_name"].startswith("'=") and exported[0]["state"] == "ready"
    assert exported[0]["consent_at"] == "2026-01-31T00:00:00+00:00"

    results = ("lead_id", "state", "result", "reason", "attempts", "last_called_at", "next_at", "consent_at")
    options = ImportOptions(mapping=dict.fromkeys(results, "ignore"))
    imports = Imports(db, TENANT)
    ready = await make_ready(path, "leads", options)
    row, _ = await create_import(imports, objects, ready, campaign_id=other, filename="export.csv")
    begun = await imports.begin(row.id)
    assert begun is not None
    done = await run_import(imports, objects, begun, processes=1)
    assert done is not None and done.counts["accepted"] == 1101
    same = ("number", "first_name", "last_name", "email", "zones", "region", "priority", "high_value", "tags")
    before, after = await leads_of(db, campaign), await leads_of(db, other)
    assert [[getattr(lead, name) for name in same] for lead in after] == [
        [getattr(lead, name) for name in same] for lead in before
    ]
    assert after[0].custom_fields == {"company": "-ACME", "note": 'x "y", z\nw'}
    assert [lead.custom_fields for lead in after[1:]] == [lead.custom_fields for lead in before[1:]]


async def test_the_report_of_an_import_is_a_safe_file(db: Database, objects: ObjectStore, tmp_path: Path) -> None:
    campaign, imports = await add_campaign(db), Imports(db, TENANT)
    path = tmp_path / "list.csv"
    path.write_text("phone\n+12025550100\n=1+1\n+12025550100\n", encoding="utf-8")
    ready = await make_ready(path, "leads", ImportOptions())
    row, _ = await create_import(imports, objects, ready, campaign_id=campaign, filename="list.csv")
    begun = await imports.begin(row.id)
    assert begun is not None
    await run_import(imports, objects, begun, processes=1)
    document = b"".join([part async for part in fault_lines(imports, row.id)]).decode("utf-8-sig")
    header, *rows = csv.reader(io.StringIO(document, newline=""))
    assert header == ["row", "column", "code", "explanation", "value"]
    assert [(r[0], r[1], r[2], r[4]) for r in rows] == [
        ("3", "phone", "number_short", "'=1+1"),
        ("4", "phone", "duplicate_in_file", "+12025550100"),
    ]
    assert all(r[3] for r in rows)
