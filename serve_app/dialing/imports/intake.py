"""A file that has arrived: what is in it, how its first rows would be read, and an import to do it.

Everything that is wrong with the file as a whole is refused here, before the first row is written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import phonenumbers

from serve_app.dialing.imports.config import ImportConfig, import_config
from serve_app.dialing.imports.header import Columns, columns_of
from serve_app.dialing.imports.layout import make_layout
from serve_app.dialing.imports.reader import RowSource, count_rows
from serve_app.dialing.imports.refusal import ImportRefused
from serve_app.dialing.imports.rows import RowReader
from serve_app.dialing.imports.text import TextFormat, sniff
from serve_app.dialing.imports.workbook import is_workbook, to_csv
from serve_app.store.campaign_rows import ImportRow
from serve_app.store.import_rows import RowResult
from serve_app.store.imports import ImportKind, Imports
from serve_app.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What whoever sends a file can tell of it; what is not told is found out."""

    mapping: Mapping[str, str] = field(default_factory=dict)
    """Header -> target (`config.Target`), `custom` or `ignore`."""
    region: str | None = None
    """ISO 3166-1 alpha-2: where numbers without a country code are at home."""
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    scrubbed_at: datetime | None = None
    """When the whole file was compared with the do-not-call registries; a column of it wins."""


@dataclass(frozen=True, slots=True)
class ReadyFile:
    """A text file that can be imported."""

    path: Path
    sha256: str
    """Of the file as it was sent; the others are of the text."""
    size_bytes: int
    form: TextFormat
    columns: Columns
    options: ImportOptions
    kind: ImportKind


async def make_ready(path: Path, kind: ImportKind, options: ImportOptions) -> ReadyFile:
    """Find out all about the file at `path`; a workbook becomes a CSV file beside it. Raises ImportRefused."""
    config = import_config()
    if options.region is not None and options.region not in phonenumbers.SUPPORTED_REGIONS:
        raise ImportRefused(
            "region_unknown", "region", f"{options.region!r} is no country", "two letters (ISO 3166-1), such as US"
        )
    sha256 = await asyncio.to_thread(_sha256, path, config)
    if await asyncio.to_thread(is_workbook, path):
        text = path.with_name(f"{path.name}.csv")
        await to_csv(path, text, config.limits, options.sheet)
        options = replace(options, encoding="utf-8", delimiter=",")
        path = text
    return await asyncio.to_thread(_inspect, path, kind, options, config, sha256)


def too_large(config: ImportConfig) -> ImportRefused:
    most = config.limits.file_bytes
    return ImportRefused(
        "file_too_large", "file", f"it is larger than {most >> 20} MB", "split it; each part is an import of its own"
    )


def preview(ready: ReadyFile, now: datetime) -> RowResult:
    """How the first rows would be read; nothing is written."""
    limits = import_config().limits
    with RowSource(ready.path, ready.form, longest_cell=limits.row_bytes) as source:
        chunk = next(source.chunks(limits.preview_rows, header=ready.columns.has_header), None)
    return _reader(ready, now).read(*((chunk.first_row, chunk.rows) if chunk is not None else (1, [])))


def numbers_of(ready: ReadyFile, now: datetime) -> tuple[set[str], Counter[str]]:
    """All numbers of a list of numbers that are not to be called, and why rows are none: code -> rows."""
    limits = import_config().limits
    reader, numbers, refused = _reader(ready, now), set[str](), Counter[str]()
    with RowSource(ready.path, ready.form, longest_cell=limits.row_bytes) as source:
        for chunk in source.chunks(limits.chunk_rows, header=ready.columns.has_header):
            result = reader.read(chunk.first_row, chunk.rows)
            numbers.update(row.number for row in result.accepted)
            refused.update(fault.code for fault in result.faults)
    return numbers, refused


def _reader(ready: ReadyFile, now: datetime) -> RowReader:
    columns = ready.columns
    return RowReader(
        make_layout(
            names=list(columns.names),
            fields=dict(columns.fields),
            custom=list(columns.custom),
            region=ready.options.region,
            to_call=ready.kind == "leads",
            source="",
            now=now.isoformat(),
            scrubbed_at=_utc(ready.options.scrubbed_at),
            config=import_config(),
        )
    )


async def create_import(
    imports: Imports, objects: ObjectStore, ready: ReadyFile, *, campaign_id: str | None, filename: str
) -> tuple[ImportRow, bool]:
    """Queue the import and say whether it is new: the same file, to the same place, read in the same way, is not.

    Raises UnavailableError.
    """
    columns, form, options = ready.columns, ready.form, ready.options
    mapping: dict[str, Any] = {
        "names": list(columns.names),
        "has_header": columns.has_header,
        "fields": dict(columns.fields),
        "custom": [list(pair) for pair in columns.custom],
    }
    reading = {
        "encoding": form.encoding,
        "delimiter": form.delimiter,
        "skip_lines": form.skip_lines,
        "region": options.region,
        "sheet": options.sheet,
        "scrubbed_at": _utc(options.scrubbed_at),
    }
    told = json.dumps([ready.sha256, ready.kind, campaign_id, mapping, reading], sort_keys=True)
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    key = f"imports/{imports.tenant_id}/{fingerprint}.csv"
    before = await imports.with_fingerprint(fingerprint)
    if before is not None and before.status in ("queued", "running", "completed"):
        return before, False
    await objects.put_file(key, ready.path)
    return await imports.create(
        kind=ready.kind,
        campaign_id=campaign_id,
        filename=filename,
        object_key=key,
        size_bytes=ready.size_bytes,
        sha256=ready.sha256,
        fingerprint=fingerprint,
        mapping=mapping,
        options={**reading, "chunk_rows": import_config().limits.chunk_rows},
    )


def _inspect(path: Path, kind: ImportKind, options: ImportOptions, config: ImportConfig, sha256: str) -> ReadyFile:
    limits = config.limits
    form = sniff(path, encoding=options.encoding, delimiter=options.delimiter)
    with RowSource(path, form, longest_cell=limits.row_bytes) as source:
        first = source.rows(1)
    if not first or first[0] is None or not any(map(str.strip, first[0])):
        raise ImportRefused("header_missing", "file", "its first row is empty", "begin with the headers of the columns")
    columns = columns_of(first[0], config, options.mapping, numbers_only=kind == "do_not_call")
    most = limits.rows + columns.has_header
    if count_rows(path, form, most=most, longest_cell=limits.row_bytes) > most:
        raise ImportRefused(
            "too_many_rows",
            "file",
            f"it has more than {limits.rows} rows",
            "split it; each part is an import of its own",
        )
    return ReadyFile(path, sha256, path.stat().st_size, form, columns, options, kind)


def _utc(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _sha256(path: Path, config: ImportConfig) -> str:
    if path.stat().st_size > config.limits.file_bytes:
        raise too_large(config)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
