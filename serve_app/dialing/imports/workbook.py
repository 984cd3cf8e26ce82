"""A sheet of an Excel workbook as a CSV file in UTF-8, made by a process of its own.

A workbook is a zip file of XML: a few bytes can inflate to gigabytes, and one cell in the last corner makes a reader
ask for memory for all cells before it. So the parts are counted before they are read, and the process that reads them
may have only so much memory.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import sys
import zipfile
from asyncio.subprocess import PIPE
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve_app.dialing.imports.refusal import ImportRefused

if TYPE_CHECKING:  # the process that reads a workbook is to start quickly
    from serve_app.dialing.imports.config import ImportLimits

_ZIP = b"PK\x03\x04"
_OLE = b"\xd0\xcf\x11\xe0"
_TIMEOUT_S = 120.0
_BLOCK_BYTES = 1 << 20
_AS_CSV = "save the sheet as CSV UTF-8 and send that"


def is_workbook(path: Path) -> bool:
    """By its first bytes. Raises ImportRefused for the format before 2007."""
    with path.open("rb") as file:
        head = file.read(4)
    if head == _OLE:
        raise ImportRefused("workbook_old", "file", "it is a workbook in the format before 2007", _AS_CSV)
    return head == _ZIP


async def to_csv(path: Path, out: Path, limits: ImportLimits, sheet: str | None) -> None:
    """Write a sheet (None: the first one) as CSV. Raises ImportRefused."""
    order = {
        "path": str(path),
        "out": str(out),
        "sheet": sheet,
        "bytes": limits.workbook_bytes,
        "ratio": limits.workbook_ratio,
        "memory_bytes": limits.workbook_memory_bytes,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "serve_app.dialing.imports.workbook", stdin=PIPE, stdout=PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            answer, _ = await process.communicate(json.dumps(order).encode())
    except TimeoutError as error:
        raise ImportRefused(
            "workbook_too_large", "file", f"reading it takes longer than {_TIMEOUT_S:g} s", _AS_CSV
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ImportRefused("workbook_too_large", "file", "reading it takes more memory than allowed", _AS_CSV)
    told = json.loads(answer)
    if told:
        raise ImportRefused(**told)


def main() -> None:
    """The order on stdin; on stdout nothing but a refusal, if there is one."""
    os.nice(10)
    order = json.loads(sys.stdin.buffer.read())
    _limit_memory(order["memory_bytes"])
    try:
        _check_parts(Path(order["path"]), order["bytes"], order["ratio"])
        _write(Path(order["path"]), Path(order["out"]), order["sheet"], order["bytes"])
        told: dict[str, str] = {}
    except ImportRefused as refused:
        told = {
            "code": refused.code,
            "field": refused.field,
            "message": refused.message,
            "remedy": refused.remedy,
        }
    sys.stdout.write(json.dumps(told))


def _limit_memory(limit_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the parts are counted all the same
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


def _check_parts(path: Path, most_bytes: int, most_ratio: float) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            parts = file.infolist()
            if "xl/workbook.xml" not in file.namelist():
                raise ImportRefused("workbook_unknown", "file", "it is a zip file, but no .xlsx workbook", _AS_CSV)
            inflated = sum(part.file_size for part in parts)
            packed = sum(part.compress_size for part in parts)
            if inflated > most_bytes or inflated > max(1, packed) * most_ratio:
                raise ImportRefused(
                    "workbook_too_large",
                    "file",
                    f"its {packed} bytes inflate to {inflated}; taken is up to {most_bytes} and {most_ratio:g} times",
                    _AS_CSV,
                )
            # A part that inflates to more than it says ends in a checksum error here, before anybody else reads it.
            for part in parts:
                with file.open(part) as content:
                    while content.read(_BLOCK_BYTES):
                        pass
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ImportRefused("workbook_damaged", "file", f"the workbook cannot be read: {error}", _AS_CSV) from error


def _write(path: Path, out: Path, wanted: str | None, most_bytes: int) -> None:
    from python_calamine import CalamineError, CalamineWorkbook, SheetVisibleEnum

    try:
        book = CalamineWorkbook.from_path(path)
        visible = [sheet.name for sheet in book.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
        names = visible or book.sheet_names
        if not names or (wanted is not None and wanted not in book.sheet_names):
            raise ImportRefused(
                "sheet_unknown", "sheet", "the workbook has no such sheet", f"one of: {', '.join(book.sheet_names)}"
            )
        sheet = book.get_sheet_by_name(wanted or names[0])
    except CalamineError as error:
        raise ImportRefused("workbook_damaged", "file", f"the workbook cannot be read: {error}", _AS_CSV) from error
    with out.open("w", encoding="utf-8", newline="") as file:
        writer, written = csv.writer(file), 0
        for row in sheet.iter_rows():
            written += writer.writerow([_text(cell) for cell in row])
            # A text that many cells share is in the workbook once, and here as often as there are cells.
            if written > most_bytes:
                raise ImportRefused("workbook_too_large", "file", f"as text it is above {most_bytes} bytes", _AS_CSV)


def _text(cell: Any) -> str:
    """As a person would type it: whole numbers without a point, dates as ISO 8601."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    return str(cell)


if __name__ == "__main__":
    main()
