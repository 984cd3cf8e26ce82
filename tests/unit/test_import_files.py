"""Files of any delimiter, encoding and header; and those that are refused as a whole, with the field to blame."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.dialing.imports.config import TARGETS, import_config
from serve_app.dialing.imports.header import Columns, columns_of
from serve_app.dialing.imports.intake import ImportOptions, make_ready
from serve_app.dialing.imports.reader import RowSource, count_rows
from serve_app.dialing.imports.refusal import ImportRefused
from serve_app.dialing.imports.text import TextFormat, sniff

HEADER = "Téléphone;Prénom;Nom\n"
TEXT = HEADER + "".join(f"+3312345{n:04d};Zoë;Müller-Lüdenscheidt «{n}»\n" for n in range(50))


def written(folder: Path, content: bytes) -> Path:
    path = folder / "list.csv"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (TEXT.encode(), "utf-8"),
        (codecs.BOM_UTF8 + TEXT.encode(), "utf-8-sig"),
        (TEXT.encode("utf-16"), "utf-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "utf-16"),
        (TEXT.encode("utf-16-le"), "utf-16-le"),
        (TEXT.encode("utf-16-be"), "utf-16-be"),
        (TEXT.encode("utf-32"), "utf-32"),
        (TEXT.encode("cp1252"), "cp1252"),
    ],
)
def test_the_encoding_is_found_and_nothing_is_lost(tmp_path: Path, content: bytes, encoding: str) -> None:
    path = written(tmp_path, content)
    form = sniff(path)
    assert codecs.lookup(form.encoding).name == codecs.lookup(encoding).name or encoding == "cp1252"
    with RowSource(path, form, longest_cell=1000) as source:
        rows = source.rows(1000)
    assert rows == [line.split(";") for line in TEXT.splitlines()]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    rows = [["phone", "name", "note"]] + [[f"+1202555{n:04d}", "Smith, John", "a; b"] for n in range(30)]
    lines = [delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in row) for row in rows]
    form = sniff(written(tmp_path, "\r\n".join(lines).encode()))
    assert form == TextFormat("utf-8", delimiter)


def test_excel_tells_its_delimiter_in_a_line_of_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, b"sep=|\r\nphone|name\r\n+12025550123|a,b,c\r\n")
    form = sniff(path)
    assert form == TextFormat("utf-8", "|", skip_lines=1)
    with RowSource(path, form, longest_cell=100) as source:
        assert source.rows(9) == [["phone", "name"], ["+12025550123", "a,b,c"]]


def test_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    assert sniff(written(tmp_path, b"phone\n+12025550123\n+12025550124\n")).delimiter == ","


def test_an_encoding_that_is_told_is_proven(tmp_path: Path) -> None:
    path = written(tmp_path, b"phone\n" + b"x" * 3_000_000 + "é".encode("cp1252") + b"x\n")
    with pytest.raises(ImportRefused, match=r"encoding: near byte 300000\d the file is not utf-8"):
        sniff(path, encoding="UTF8")
    for nonsense in ("klingon", "rot13"):
        with pytest.raises(ImportRefused, match=r"^encoding: .*; for example utf-8"):
            sniff(path, encoding=nonsense)


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


@settings(max_examples=60)
@given(
    rows=st.lists(st.lists(CELL, min_size=2, max_size=4), max_size=30),
    chunk=st.integers(1, 7),
    skip=st.integers(0, 3),
)
def test_chunks_are_the_rows_of_the_file_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], chunk: int, skip: int
) -> None:
    path = tmp_path_factory.mktemp("f") / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["phone", "name"], *rows])
    form = TextFormat("utf-8", ",")
    with RowSource(path, form, longest_cell=1000) as source:
        chunks = list(source.chunks(chunk, header=True, skip=skip))
    assert [row for found in chunks for row in found.rows] == rows[skip * chunk :]
    assert [found.number for found in chunks] == list(range(skip, skip + len(chunks)))
    assert [found.first_row for found in chunks] == [2 + found.number * chunk for found in chunks]


def test_a_quotation_mark_that_is_never_closed_costs_its_row_and_few_others(tmp_path: Path) -> None:
    lines = [f"+1202555{n:04d},x" for n in range(1000)]
    lines[10] = '+12025550010,"never closed'
    with RowSource(written(tmp_path, "\n".join(lines).encode()), TextFormat("utf-8", ","), longest_cell=200) as source:
        rows = source.rows(2000)
    assert rows[10] is None and rows.count(None) == 1
    # What 200 characters hold is lost with it; from then on every line is a row again.
    assert 980 < len(rows) < 1000
    assert rows[11:] == [line.split(",") for line in lines[len(lines) - len(rows) + 11 :]]


def test_rows_are_counted_beyond_the_limit_only(tmp_path: Path) -> None:
    form = TextFormat("utf-8", ",")
    path = written(tmp_path, b'phone\n"a\nb"\n"c\nd"\n')
    assert count_rows(path, form, most=10, longest_cell=100) == 0, "fewer lines than the limit are fewer rows"
    assert count_rows(path, form, most=5, longest_cell=100) == 3, "a line feed inside a cell ends no row"
    assert count_rows(written(tmp_path, b"phone\r1\r2\r3\r"), form, most=3, longest_cell=100) == 4


# --- headers


def columns(*names: str, mapping: dict[str, str] | None = None, numbers_only: bool = False) -> Columns:
    return columns_of(names, import_config(), mapping, numbers_only=numbers_only)


def test_headers_are_guessed_and_the_others_are_custom_fields() -> None:
    found = columns("First Name", "LAST_NAME", "Mobile Phone", "E-Mail", "Time zone", "VIP", "Company", "State")
    assert found.has_header
    assert found.targets() == {
        "First Name": "first_name",
        "LAST_NAME": "last_name",
        "Mobile Phone": "number",
        "E-Mail": "email",
        "Time zone": "time_zone",
        "VIP": "high_value",
        "Company": "custom",
        "State": "region",
    }


@pytest.mark.parametrize("name", ["Telefon", "téléphone", "Teléfono", "PHONE NUMBER", "cell", "msisdn"])
def test_headers_in_other_languages(name: str) -> None:
    assert columns("x", name).fields == {"number": 1}


def test_of_several_phone_columns_the_likelier_one_is_taken() -> None:
    found = columns("Work Phone", "Phone", "Mobile")
    assert found.fields == {"number": 1}
    assert [key for _, key in found.custom] == ["Work Phone", "Mobile"]


def test_a_file_without_header_is_read_from_its_first_row() -> None:
    found = columns("Smith", "+1 202 555 0123", "x")
    assert not found.has_header
    assert found.names == ("column 1", "column 2", "column 3")
    assert found.fields == {"number": 1}
    assert columns("2026-11-21", "Smith", "(202) 555-0123").fields == {"number": 2}, "a date is no phone number"


def test_headers_that_are_empty_or_occur_twice_have_names_of_their_own() -> None:
    assert columns("phone", "", "note", "note").names == ("phone", "column 2", "note", "note (4)")


def test_a_mapping_wins_over_the_guess() -> None:
    found = columns("Phone", "Mobile", "Secret", mapping={"Mobile": "number", "Secret": "ignore"})
    assert found.targets() == {"Phone": "custom", "Mobile": "number", "Secret": "ignore"}


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"Fone": "number"}, r"mapping\.Fone: the file has no such column; did you mean 'Phone'\?"),
        ({"Phone": "numbr"}, r"mapping\.Phone: there is no field 'numbr'; did you mean 'number'\?"),
        ({"Phone": "custom"}, r"mapping: no column is known to hold phone numbers; the headers are: Phone, Mobile"),
        ({"Phone": "number", "Mobile": "number"}, r"mapping\.\w+: number is told of two columns"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(mapping: dict[str, str], told: str) -> None:
    with pytest.raises(ImportRefused, match=told):
        columns("Phone", "Mobile x" if "Mobile" not in mapping else "Mobile", mapping=mapping)


def test_a_do_not_call_list_keeps_nothing_but_the_number() -> None:
    found = columns("name", "phone", "email", numbers_only=True)
    assert (found.fields, found.custom) == ({"number": 1}, ())


def test_the_synonyms_are_of_known_fields_and_of_one_field_each() -> None:
    headers = import_config().headers
    assert set(headers) <= set(TARGETS)
    synonyms = [synonym for names in headers.values() for synonym in names]
    assert len(synonyms) == len(set(synonyms))
    for synonym in synonyms:
        assert synonym == synonym.casefold() and synonym.isalnum() and synonym.isascii(), synonym


# --- the file as a whole


async def test_a_file_is_made_ready(tmp_path: Path) -> None:
    ready = await make_ready(written(tmp_path, TEXT.encode("utf-16")), "leads", ImportOptions(region="FR"))
    assert ready.columns.fields == {"number": 0, "first_name": 1, "last_name": 2}
    assert (ready.form.delimiter, ready.size_bytes) == (";", len(TEXT.encode("utf-16")))


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (b"", ImportOptions(), r"^file: it is empty; send a header"),
        (b"\n\n", ImportOptions(), r"^file: its first row is empty"),
        (b"phone\n1\n", ImportOptions(region="USA"), r"^region: 'USA' is no country; two letters"),
        (b"phone\n1\n", ImportOptions(delimiter=";;"), r"^delimiter: it is one character"),
        (b"phone," + b"x," * 300, ImportOptions(), r"^file: it has 302 columns, at most 200 are taken"),
        (b"\xd0\xcf\x11\xe0 old workbook", ImportOptions(), r"^file: .*before 2007; save the sheet as CSV"),
        (b"PK\x03\x04 no zip", ImportOptions(), r"^file: the workbook cannot be read"),
    ],
)
async def test_a_file_that_is_refused(tmp_path: Path, content: bytes, options: ImportOptions, told: str) -> None:
    with pytest.raises(ImportRefused, match=told):
        await make_ready(written(tmp_path, content), "leads", options)


async def test_limits_of_size_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = import_config()
    small = config.model_copy(update={"limits": config.limits.model_copy(update={"rows": 3, "file_bytes": 100})})
    monkeypatch.setattr("serve_app.dialing.imports.intake.import_config", lambda: small)
    await make_ready(written(tmp_path, b"phone\n1\n2\n3\n"), "leads", ImportOptions())
    with pytest.raises(ImportRefused, match=r"^file: it has more than 3 rows; split it"):
        await make_ready(written(tmp_path, b"phone\n1\n2\n3\n4\n"), "leads", ImportOptions())
    with pytest.raises(ImportRefused, match=r"^file: it is larger than 0 MB; split it"):
        await make_ready(written(tmp_path, b"phone\n" * 50), "leads", ImportOptions())
