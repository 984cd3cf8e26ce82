"""A file in the body of a request: to a temporary file, never to memory, and no further than the limit."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Query, Request
from pydantic import AwareDatetime

from serve_app.api.deps import Deps
from serve_app.api.problems import ProblemError, field_problem
from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.intake import ImportOptions, ReadyFile, make_ready, too_large
from serve_app.dialing.imports.refusal import ImportRefused
from serve_app.store.imports import ImportKind

_TOO_LARGE = frozenset({"file_too_large", "too_many_rows", "workbook_too_large"})
_MAPPING_CHARS = 20_000


def import_options(
    deps: Deps,
    mapping: Annotated[
        str | None,
        Query(
            max_length=_MAPPING_CHARS,
            description='JSON: header -> field, `custom` or `ignore`; for example {"Tel 2": "number"}',
        ),
    ] = None,
    region: Annotated[
        str | None, Query(description="ISO 3166-1 alpha-2: where numbers without a country code are at home")
    ] = None,
    encoding: Annotated[str | None, Query(max_length=40, description="without it, found out")] = None,
    delimiter: Annotated[str | None, Query(max_length=4, description="without it, found out")] = None,
    sheet: Annotated[str | None, Query(max_length=100, description="of a workbook; without it, the first")] = None,
    scrubbed_at: Annotated[
        AwareDatetime | None,
        Query(description="when all its numbers were compared with the national do-not-call list; a column wins"),
    ] = None,
) -> ImportOptions:
    """Raises a 422 problem that names the parameter."""
    if scrubbed_at is not None and scrubbed_at > deps.clock.now():
        raise field_problem("scrubbed_at", "it is in the future", "check the date and its zone")
    return ImportOptions(
        mapping=_mapping(mapping),
        region=region.upper() if region else None,
        encoding=encoding or None,
        delimiter="\t" if delimiter == "\\t" else delimiter or None,
        sheet=sheet or None,
        scrubbed_at=scrubbed_at,
    )


Options = Annotated[ImportOptions, Depends(import_options)]
FileName = Annotated[str, Query(max_length=200, description="shown with the import, and the source of its consents")]


@asynccontextmanager
async def received(request: Request, kind: ImportKind, options: ImportOptions) -> AsyncIterator[ReadyFile]:
    """The file of the request, ready to be imported, for as long as the block lasts.

    Raises a 413 or 422 problem that says what is wrong with it.
    """
    with tempfile.TemporaryDirectory(prefix="parley-upload-") as folder:
        path = Path(folder) / "file"
        try:
            await _write(request, path)
            ready = await make_ready(path, kind, options)
        except ImportRefused as refused:
            raise _problem(refused) from refused
        yield ready


async def _write(request: Request, path: Path) -> None:
    config = import_config()
    most = config.limits.file_bytes
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > most:
        raise too_large(config)
    written = 0
    with await asyncio.to_thread(path.open, "wb") as file:
        async for part in request.stream():
            written += len(part)
            if written > most:
                raise too_large(config)
            await asyncio.to_thread(file.write, part)


def _mapping(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
        raise field_problem("mapping", "it is no JSON object of texts", 'for example {"Tel 2": "number"}')
    return document


def _problem(refused: ImportRefused) -> ProblemError:
    if refused.code in _TOO_LARGE:
        return ProblemError(413, refused.code, str(refused), remedy=refused.remedy)
    return field_problem(refused.field, refused.message, refused.remedy, code=refused.code)
