"""Which encoding and which delimiter a text file has. The whole file is proven to have that encoding."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from charset_normalizer import from_bytes

from serve_app.dialing.imports.refusal import ImportRefused

DELIMITERS = (",", ";", "\t", "|")
_BLOCK_BYTES = 1 << 20
_SAMPLE_BYTES = 64 << 10
_SAMPLE_ROWS = 50
_FOREIGN_LINES = 400
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How a text file is read. `skip_lines` are before the header: Excel's `sep=;`."""

    encoding: str
    delimiter: str
    skip_lines: int = 0


def sniff(path: Path, *, encoding: str | None = None, delimiter: str | None = None) -> TextFormat:
    """Encoding and delimiter, where they are not given. Raises ImportRefused."""
    if path.stat().st_size == 0:
        raise ImportRefused("file_empty", "file", "it is empty", "send a header and at least one row")
    encoding = _known(encoding) if encoding is not None else _encoding(path)
    prove_encoding(path, encoding)
    lines = _first_lines(path, encoding)
    told = lines[0].strip().lower() if lines else ""
    skip_lines = 0
    if told.startswith("sep=") and len(told) == len("sep=,"):
        delimiter = delimiter or told[-1]
        lines, skip_lines = lines[1:], 1
    if delimiter is None:
        delimiter = _delimiter(lines)
    elif len(delimiter) != 1 or delimiter in '"\r\n':
        raise ImportRefused("delimiter_invalid", "delimiter", "it is one character", "for example , or ;")
    return TextFormat(encoding, delimiter, skip_lines)


def prove_encoding(path: Path, encoding: str) -> None:
    """Decode all of it, a block at a time. Raises ImportRefused."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    try:
        for block in _blocks(path):
            decoder.decode(block)
            offset += len(block)
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        at = offset + getattr(error, "start", 0)
        raise ImportRefused(
            "encoding_wrong", "encoding", f"near byte {at} the file is not {encoding}", "save it as CSV UTF-8"
        ) from error


def _known(encoding: str) -> str:
    try:
        found = codecs.lookup(encoding)
    except LookupError as error:
        raise ImportRefused(
            "encoding_unknown", "encoding", "there is no such encoding", "for example utf-8, utf-16 or cp1252"
        ) from error
    # bz2 and rot13 are codecs as well.
    if not found._is_text_encoding:
        raise ImportRefused("encoding_unknown", "encoding", "it is no encoding of text", "for example utf-8 or cp1252")
    return found.name


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_SAMPLE_BYTES)
    for mark, name in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return name
    if wide := _utf16_without_mark(head):
        return wide
    try:
        prove_encoding(path, "utf-8")
    except ImportRefused:
        return _guessed(path)
    return "utf-8"


def _utf16_without_mark(head: bytes) -> str | None:
    """Headers and digits in UTF-16 have a zero in every other byte; text in any other encoding has none."""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    half = len(head) // 2
    if half and odd > half * 0.4 > even:
        return "utf-16-le"
    if half and even > half * 0.4 > odd:
        return "utf-16-be"
    return None


def _guessed(path: Path) -> str:
    """From the lines that are not ASCII: they tell, and they may be rare."""
    foreign: list[bytes] = []
    with path.open("rb") as file:
        for line in file:
            if not line.isascii():
                foreign.append(line[:1000])
                if len(foreign) == _FOREIGN_LINES:
                    break
    best = from_bytes(b"".join(foreign)).best()
    # A single byte encoding in which every byte means something is always possible; Excel's is the likely one.
    return "cp1252" if best is None or best.encoding == "ascii" else best.encoding


def _delimiter(lines: list[str]) -> str:
    """The one that cuts most rows into the same number of cells, more than one. csv.Sniffer is misled by text."""
    best, best_score = ",", (0.0, 0)
    for candidate in DELIMITERS:
        widths = Counter(len(row) for row in csv.reader(lines, delimiter=candidate) if row)
        width, rows = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        score = (rows / max(1, widths.total()), width)
        if width > 1 and score > best_score:
            best, best_score = candidate, score
    return best


def _first_lines(path: Path, encoding: str) -> list[str]:
    lines: list[str] = []
    with path.open(encoding=encoding, newline="") as file:
        for _ in range(_SAMPLE_ROWS):
            line = file.readline(_SAMPLE_BYTES)
            if not line:
                break
            lines.append(line)
    return lines


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            yield block
