"""The rows of a text file, a chunk at a time: what is in memory is one chunk, whatever the file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serve_app.dialing.imports.text import TextFormat

Cells = list[str] | None
"""None: no row could be read there."""


@dataclass(frozen=True, slots=True)
class Chunk:
    number: int
    first_row: int
    """Number of its first row in the file; the header, if there is one, has number 1."""
    rows: list[Cells]
    bytes_read: int
    """Of the file, up to about here."""


class RowSource:
    """Opens a file; a context manager. Not for two threads at once."""

    def __init__(self, path: Path, form: TextFormat, *, longest_cell: int) -> None:
        """`longest_cell` characters: beyond it a quotation mark was never closed, and the row is unreadable."""
        self._file = path.open("rb", buffering=1 << 18)
        self._text = io.TextIOWrapper(self._file, encoding=form.encoding, newline="")
        for _ in range(form.skip_lines):
            self._text.readline()
        self._reader = csv.reader(self._text, delimiter=form.delimiter)
        self._longest_cell = longest_cell
        self._row_no = 0

    def __enter__(self) -> RowSource:
        return self

    def __exit__(self, *error: object) -> None:
        self._text.close()

    def rows(self, most: int) -> list[Cells]:
        """The next rows; fewer at the end of the file, then none."""
        # A limit of the process, which is why it is set here each time.
        csv.field_size_limit(self._longest_cell)
        found: list[Cells] = []
        while len(found) < most:
            try:
                for row in self._reader:
                    found.append(row)
                    if len(found) == most:
                        break
                else:
                    break
            except csv.Error:
                # The reader goes on with the line after the one in which it gave up.
                found.append(None)
        self._row_no += len(found)
        return found

    def chunks(self, rows: int, *, header: bool, skip: int = 0) -> Iterator[Chunk]:
        """Chunks of so many rows; the first `skip` are read, but not given out."""
        if header:
            self.rows(1)
        number = 0
        while True:
            first_row = self._row_no + 1
            found = self.rows(rows)
            if not found:
                return
            if number >= skip:
                yield Chunk(number, first_row, found, self._file.tell())
            number += 1


def count_rows(path: Path, form: TextFormat, *, most: int, longest_cell: int) -> int:
    """How many rows the file has, the header included; beyond `most` it stops counting."""
    # A row ends in a line feed or a carriage return (or is the last one): most files need no second look.
    if _line_ends(path) < most:
        return 0
    with RowSource(path, form, longest_cell=longest_cell) as source:
        counted = 0
        while counted <= most and (found := source.rows(10_000)):
            counted += len(found)
        return counted


def _line_ends(path: Path) -> int:
    feeds = returns = 0
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            feeds += block.count(b"\n")
            returns += block.count(b"\r")
    return max(feeds, returns)
