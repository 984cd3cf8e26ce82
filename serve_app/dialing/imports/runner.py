"""Doing an import: the file is read in order, its rows by other processes, and each chunk is committed by itself.

Killed at any moment, it goes on with the first chunk that is not committed. What is in memory is a few chunks.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from serve_app.clock import Clock, SystemClock
from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.layout import layout_of
from serve_app.dialing.imports.pool import RowPool, usual_processes
from serve_app.dialing.imports.reader import Chunk, RowSource
from serve_app.dialing.imports.text import TextFormat
from serve_app.store.campaign_rows import ImportRow
from serve_app.store.import_rows import RowResult
from serve_app.store.imports import Imports
from serve_app.store.objects import ObjectStore

BUDGET_S = 150.0
"""An import that takes longer goes on in another job: the lease of one is limited."""


async def run_import(
    imports: Imports,
    objects: ObjectStore,
    row: ImportRow,
    *,
    processes: int | None = None,
    budget_s: float = BUDGET_S,
    clock: Clock | None = None,
) -> ImportRow | None:
    """Do what is left of an import that has begun. None: the time is over, it is to be called again.

    Raises ImportStopped if it was cancelled, FileNotFoundError if its file is gone, RowWorkerDied, UnavailableError.
    """
    clock = clock or SystemClock()
    config = import_config()
    until = clock.monotonic() + budget_s
    skip = await imports.chunks_done(row.id)
    wanted = processes or usual_processes()
    limits = config.limits
    async with _local(objects, row.object_key) as path:
        with RowSource(path, format_of(row), longest_cell=limits.row_bytes) as source:
            chunks = source.chunks(int(row.options["chunk_rows"]), header=row.mapping["has_header"], skip=skip)
            async with RowPool(layout_of(row, config), wanted) as pool:
                if not await _read_and_commit(imports, row, chunks, pool, lambda: clock.monotonic() > until):
                    return None
    return await imports.complete(row.id)


async def _read_and_commit(
    imports: Imports, row: ImportRow, chunks: Iterator[Chunk], pool: RowPool, over: Callable[[], bool]
) -> bool:
    """False: it is over, and there is more to do."""
    waiting: deque[tuple[Chunk, asyncio.Task[RowResult]]] = deque()
    try:
        while True:
            chunk = await asyncio.to_thread(next, chunks, None)
            if chunk is not None:
                waiting.append((chunk, asyncio.create_task(pool.read(chunk.first_row, chunk.rows))))
            elif not waiting:
                return True
            # One chunk more than there are processes: none of them waits for the file or for SQL.
            if chunk is None or len(waiting) > pool.processes + 1:
                first, reading = waiting.popleft()
                await imports.commit_chunk(row, first.number, await reading, first.bytes_read)
                if waiting and over():
                    return False
    finally:
        for _, reading in waiting:
            reading.cancel()
        await asyncio.gather(*(reading for _, reading in waiting), return_exceptions=True)


def format_of(row: ImportRow) -> TextFormat:
    options = row.options
    return TextFormat(options["encoding"], options["delimiter"], options["skip_lines"])


@asynccontextmanager
async def _local(objects: ObjectStore, key: str) -> AsyncIterator[Path]:
    """The object as a file of this machine."""
    path = objects.local_path(key)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="parley-import-") as folder:
        path = Path(folder) / "file"
        await objects.fetch(key, path)
        yield path
