"""Excel workbooks: cells as a person would have typed them, and workbooks that mean harm."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from serve_app.clock import SystemClock
from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.intake import ImportOptions, make_ready, preview
from serve_app.dialing.imports.reader import RowSource
from serve_app.dialing.imports.refusal import ImportRefused
from serve_app.dialing.imports.text import TextFormat
from serve_app.dialing.imports.workbook import to_csv

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"

Cell = str | int | float | bool
Row = Sequence[Cell]


def sheet_xml(rows: Sequence[Row]) -> str:
    def cell(column: int, row: int, value: Cell) -> str:
        at = f'r="{chr(65 + column)}{row}"'
        if isinstance(value, bool):
            return f'<c {at} t="b"><v>{int(value)}</v></c>'
        if isinstance(value, int | float):
            return f"<c {at}><v>{value!r}</v></c>"
        return f'<c {at} t="inlineStr"><is><t>{escape(value)}</t></is></c>'

    body = "".join(
        f'<row r="{n}">{"".join(cell(column, n, value) for column, value in enumerate(row))}</row>'
        for n, row in enumerate(rows, 1)
    )
    return f'<worksheet xmlns="{MAIN}"><sheetData>{body}</sheetData></worksheet>'


def workbook(path: Path, sheets: dict[str, str], *, hidden: Sequence[str] = ()) -> Path:
    """An .xlsx file with these sheets (name -> XML)."""
    names = list(sheets)
    states = {name: "hidden" if name in hidden else "visible" for name in names}
    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" state="{states[name]}" r:id="rId{n}"/>' for n, name in enumerate(names, 1)
    )
    kind = f"{RELATIONS}/worksheet"
    targets = "".join(
        f'<Relationship Id="rId{n}" Type="{kind}" Target="worksheets/sheet{n}.xml"/>' for n in range(1, len(names) + 1)
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/></Types>',
        )
        file.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{PACKAGE}"><Relationship Id="rId1" Type="{RELATIONS}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        file.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets>{listed}</sheets></workbook>',
        )
        file.writestr("xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}">{targets}</Relationships>')
        for n, name in enumerate(names, 1):
            file.writestr(f"xl/worksheets/sheet{n}.xml", sheets[name])
    return path


async def rows_of(path: Path, out: Path, sheet: str | None = None) -> list[list[str] | None]:
    await to_csv(path, out, import_config().limits, sheet)
    with RowSource(out, TextFormat("utf-8", ","), longest_cell=1000) as source:
        return source.rows(1000)


ROWS: list[Row] = [
    ["Phone", "Name", "Score", "VIP"],
    [12025550123, "Ada, née Byron", 4.5, True],
    ["+12025550124", "Zoë «Z»", 5, False],
]


async def test_cells_are_what_a_person_would_have_typed(tmp_path: Path) -> None:
    path = workbook(tmp_path / "book.xlsx", {"Leads": sheet_xml(ROWS)})
    assert await rows_of(path, tmp_path / "out.csv") == [
        ["Phone", "Name", "Score", "VIP"],
        ["12025550123", "Ada, née Byron", "4.5", "yes"],
        ["+12025550124", "Zoë «Z»", "5", "no"],
    ]


async def test_the_first_sheet_that_is_shown_or_the_one_that_is_named(tmp_path: Path) -> None:
    sheets = {name: sheet_xml([[name]]) for name in ("Notes", "Leads", "Old")}
    path = workbook(tmp_path / "book.xlsx", sheets, hidden=["Notes"])
    assert await rows_of(path, tmp_path / "out.csv") == [["Leads"]]
    assert await rows_of(path, tmp_path / "out.csv", "Old") == [["Old"]]
    with pytest.raises(ImportRefused, match=r"^sheet: the workbook has no such sheet; one of: Notes, Leads, Old"):
        await rows_of(path, tmp_path / "out.csv", "Lead")


async def test_a_workbook_is_previewed_like_any_file(tmp_path: Path) -> None:
    path = workbook(tmp_path / "book", {"Leads": sheet_xml(ROWS)})
    ready = await make_ready(path, "leads", ImportOptions(region="US"))
    result = preview(ready, SystemClock().now())
    assert [(lead.number, lead.first_name, lead.high_value) for lead in result.accepted] == [
        ("+12025550123", "Ada,", True),
        ("+12025550124", "Zoë", False),
    ]


async def test_a_zip_bomb_is_not_inflated(tmp_path: Path) -> None:
    path = workbook(tmp_path / "bomb.xlsx", {"Leads": sheet_xml([["x"]])})
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("xl/media/image.bin", bytes(50_000_000))
    with pytest.raises(ImportRefused, match=r"^file: its \d+ bytes inflate to 500\d+; taken is up to"):
        await rows_of(path, tmp_path / "out.csv")


async def test_a_part_that_lies_about_its_size_is_found_out(tmp_path: Path) -> None:
    path = workbook(tmp_path / "liar.xlsx", {"Leads": sheet_xml([["x" * 5000]])})
    with zipfile.ZipFile(path) as file:
        true = file.getinfo("xl/worksheets/sheet1.xml").file_size
    content = path.read_bytes()
    assert content.count(true.to_bytes(4, "little")) == 2, "in the part's own header and in the directory"
    path.write_bytes(content.replace(true.to_bytes(4, "little"), (100).to_bytes(4, "little")))
    with pytest.raises(ImportRefused, match=r"^file: the workbook cannot be read"):
        await rows_of(path, tmp_path / "out.csv")


async def test_one_cell_in_the_last_corner_does_not_take_all_memory(tmp_path: Path) -> None:
    corner = (
        f'<worksheet xmlns="{MAIN}"><sheetData><row r="1"><c r="A1"><v>1</v></c></row>'
        '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData></worksheet>'
    )
    path = workbook(tmp_path / "corner.xlsx", {"Leads": corner})
    with pytest.raises(ImportRefused, match=r"^file: reading it takes more (memory|time)"):
        await rows_of(path, tmp_path / "out.csv")


async def test_another_zip_file_is_no_workbook(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(ImportRefused, match=r"^file: it is a zip file, but no \.xlsx workbook; save the sheet as CSV"):
        await rows_of(path, tmp_path / "out.csv")
