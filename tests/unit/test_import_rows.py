"""Rows: each becomes a lead, a fault with column, code and value, or is blank."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.header import columns_of
from serve_app.dialing.imports.layout import make_layout
from serve_app.dialing.imports.phone import REASONS as NUMBER_REASONS
from serve_app.dialing.imports.pool import RowPool
from serve_app.dialing.imports.reasons import NOTES, REASONS
from serve_app.dialing.imports.rows import Layout, RowReader
from serve_app.store.import_rows import LeadValues, RowResult

HEADERS = ("phone", "first name", "last name", "email", "priority", "vip", "tags", "time zone", "state", "country",
           "consent", "consent date", "consent source", "scrub date", "company")  # fmt: skip
GOOD = {"phone": "+12025550123"}


def layout(*headers: str, region: str | None = "US", **changes: Any) -> Layout:
    columns = columns_of(headers or HEADERS, import_config())
    made = make_layout(
        names=list(columns.names),
        fields=dict(columns.fields),
        custom=list(columns.custom),
        region=region,
        to_call=True,
        source="list.csv",
        now="2026-06-01T12:00:00+00:00",
        config=import_config(),
    )
    made.update(changes)  # type: ignore[typeddict-item]
    return made


def read(*rows: dict[str, str], **changes: Any) -> RowResult:
    cells: list[list[str] | None] = [[row.get(header, "") for header in HEADERS] for row in rows]
    return RowReader(layout(**changes)).read(2, cells)


def lead(**values: str) -> LeadValues:
    result = read(GOOD | {name.replace("_", " "): value for name, value in values.items()})
    assert result.faults == []
    return result.accepted[0]


def test_a_full_row() -> None:
    found = lead(
        first_name=" Ada ",
        last_name="Lovelace",
        email="ada@example.com",
        priority="9",
        vip="Yes",
        tags="warm; paying,warm",
        time_zone="America/New_York",
        state="new york",
        country="us",
        consent="written",
        consent_date="2026-05-01T10:00:00+02:00",
        consent_source="web form",
        scrub_date="2026-05-20",
        company="Analytical Engines",
    )
    assert found == LeadValues(
        row_no=2,
        number="+12025550123",
        first_name="Ada",
        last_name="Lovelace",
        email="ada@example.com",
        zones='["America/New_York"]',
        region="US-NY",
        priority=9,
        high_value=True,
        tags='["warm", "paying"]',
        custom_fields='{"company":"Analytical Engines"}',
        consent_kind="written",
        consent_at="2026-05-01T08:00:00+00:00",
        consent_source="web form",
        scrubbed_at="2026-05-20T00:00:00+00:00",
    )


def test_a_row_with_nothing_but_a_number() -> None:
    assert lead() == LeadValues(row_no=2, number="+12025550123")


def test_a_full_name_is_cut_at_its_first_space() -> None:
    reader = RowReader(layout("phone", "name"))
    found = reader.read(2, [["+12025550123", "Ada King Lovelace"], ["+12025550124", "Ada"]]).accepted
    assert [(lead.first_name, lead.last_name) for lead in found] == [("Ada", "King Lovelace"), ("Ada", None)]


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("CA", "US-CA"),
        ("us-ca", "US-CA"),
        ("California", "US-CA"),
        ("ON", "CA-ON"),
        ("Québec", None),
        ("Quebec", "CA-QC"),
    ],
)
def test_states_and_provinces(text: str, region: str | None) -> None:
    result = read(GOOD | {"state": text})
    if region is None:
        assert result.faults[0].code == "region_unknown", "a state's law cannot be guessed"
    else:
        assert result.accepted[0].region == region


def test_a_country_tells_where_a_number_is_at_home() -> None:
    result = read({"phone": "030 1234567", "country": "DE", "state": "DE-BY"}, {"phone": "2025550123", "country": ""})
    assert [(lead.number, lead.region) for lead in result.accepted] == [
        ("+49301234567", "DE-BY"),
        ("+12025550123", None),
    ]


FAULTS: list[tuple[dict[str, str], str, str, str]] = [
    ({"phone": "n/a"}, "phone", "number_not_a_number", "n/a"),
    ({"priority": "11"}, "priority", "priority_invalid", "11"),
    ({"priority": "high"}, "priority", "priority_invalid", "high"),
    ({"priority": "0"}, "priority", "priority_invalid", "0"),
    ({"vip": "perhaps"}, "vip", "high_value_invalid", "perhaps"),
    ({"tags": ",".join(f"t{n}" for n in range(21))}, "tags", "tags_invalid", ",".join(f"t{n}" for n in range(21))),
    ({"tags": "x" * 51}, "tags", "tags_invalid", "x" * 51),
    ({"time zone": "EST"}, "time zone", "time_zone_unknown", "EST"),
    ({"time zone": "Etc/GMT+5"}, "time zone", "time_zone_unknown", "Etc/GMT+5"),
    ({"time zone": "../../etc/passwd"}, "time zone", "time_zone_unknown", "../../etc/passwd"),
    ({"state": "Atlantis"}, "state", "region_unknown", "ATLANTIS"),
    ({"phone": "2025550123", "country": "Utopia"}, "country", "country_unknown", "UTOPIA"),
    ({"consent": "perhaps"}, "consent", "consent_invalid", "perhaps"),
    ({"consent date": "01/02/2026"}, "consent date", "consent_at_invalid", "01/02/2026"),
    ({"consent date": "0001-01-01T00:00:00+14:00"}, "consent date", "consent_at_invalid", "0001-01-01T00:00:00+14:00"),
    ({"consent": "yes", "consent date": "2026-06-02"}, "consent date", "consent_at_invalid", "2026-06-02"),
    ({"first name": "x" * 101}, "first name", "value_too_long", "x" * 101),
    ({"scrub date": "2026-06-02"}, "scrub date", "scrubbed_at_invalid", "2026-06-02"),
    ({"company": "ö" * 2100}, "", "custom_fields_too_large", "4214 bytes"),
    ({"company": "x" * 10230}, "", "row_too_large", "10242 bytes"),
]


@pytest.mark.parametrize(("cells", "column", "code", "value"), FAULTS)
def test_what_is_not_understood_is_refused_with_its_column(
    cells: dict[str, str], column: str, code: str, value: str
) -> None:
    result = read(GOOD | cells)
    assert result.accepted == []
    assert [tuple(fault) for fault in result.faults] == [(2, column, code, value)]


def test_rows_that_are_no_rows() -> None:
    rows: list[list[str] | None] = [None, [], ["", " "], ["+12025550123", "x", "one cell too many"], ["+12025550124"]]
    result = RowReader(layout("phone", "name")).read(7, rows)
    assert [(f.row_no, f.code) for f in result.faults] == [(7, "row_unreadable"), (10, "too_many_cells")]
    assert result.blank == 2
    assert [lead.row_no for lead in result.accepted] == [11], "missing cells are empty ones"


def test_every_reason_is_shown_or_told_of_numbers_or_of_the_store() -> None:
    shown = {code for _, _, code, _ in FAULTS} | {"row_unreadable", "too_many_cells"}
    assert shown | NUMBER_REASONS.keys() | {"duplicate_in_file", "duplicate_existing"} == REASONS.keys()


def test_what_is_worth_knowing_of_a_row_that_is_taken() -> None:
    result = read(
        {"phone": "+12025550123", "email": "not an address", "consent": "express"},
        {"phone": "+12025550124", "consent": "yes", "consent date": "2026-01-31"},
        {"phone": "+49301234567", "state": "Bayern", "consent": "no"},
    )
    assert [lead.notes for lead in result.accepted] == [
        ("consent_without_date", "email_not_kept"),
        (),
        ("region_not_kept",),
    ]
    assert {note for lead in result.accepted for note in lead.notes} < NOTES.keys()
    assert [(lead.consent_kind, lead.consent_source) for lead in result.accepted] == [
        (None, None),
        ("express", "list.csv"),
        (None, None),
    ]


def test_a_file_that_was_scrubbed_as_a_whole() -> None:
    told = "2026-05-20T12:00:00+00:00"
    own, plain = read(GOOD | {"scrub date": "2026-05-21"}, GOOD, scrubbed_at=told).accepted
    assert (own.scrubbed_at, plain.scrubbed_at) == ("2026-05-21T00:00:00+00:00", told)
    number_only = RowReader(layout("phone", "name", scrubbed_at=told)).read(2, [["+12025550123", "Ada"]])
    assert number_only.accepted[0].scrubbed_at == told


def test_what_an_export_put_before_a_formula_is_taken_off() -> None:
    assert lead(first_name="'=1+1", company="'@x").first_name == "=1+1"
    assert json.loads(lead(company="'-x").custom_fields) == {"company": "-x"}
    assert lead(first_name="'n Sync").first_name == "'n Sync", "an apostrophe of its own stays"


def test_a_do_not_call_list_is_read_for_its_numbers_alone() -> None:
    rows: list[list[str] | None] = [["+19005550123", "perhaps"], ["no number", "x"]]
    result = RowReader(layout("phone", "vip", to_call=False)).read(2, rows)
    assert result.accepted == [LeadValues(2, "+19005550123")]
    assert [fault.code for fault in result.faults] == ["number_not_a_number"]


CELLS = st.lists(
    st.one_of(st.text(max_size=20), st.sampled_from(["+12025550123", "2025550124", "5", "yes", "America/Chicago"])),
    max_size=len(HEADERS) + 1,
)


@settings(max_examples=200)
@given(st.lists(st.one_of(st.none(), CELLS), max_size=20))
def test_every_row_is_accounted_for_once(rows: list[list[str] | None]) -> None:
    result = RowReader(layout()).read(2, rows)
    told = [lead.row_no for lead in result.accepted] + [fault.row_no for fault in result.faults]
    assert len(told) == len(set(told)) == len(rows) - result.blank
    assert all(fault.code in REASONS for fault in result.faults)
    for lead in result.accepted:
        assert json.loads(lead.custom_fields) is not None and "\0" not in lead.custom_fields + (lead.first_name or "")


async def test_the_processes_answer_as_the_reader_does() -> None:
    rows: list[list[str] | None] = [[f"+1202555{n:04d}", "x", str(n % 13)] for n in range(500)]
    rows[7] = None
    plan = layout("phone", "name", "priority")
    async with RowPool(plan, 2) as pool:
        answers = [await pool.read(first, rows[first : first + 100]) for first in range(0, 500, 100)]
    expected = [RowReader(plan).read(first, rows[first : first + 100]) for first in range(0, 500, 100)]
    assert answers == expected
