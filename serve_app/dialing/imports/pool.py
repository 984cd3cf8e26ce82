"""Processes that read rows, as many as there are cores at most. Memory is bounded by the chunks in work."""

from __future__ import annotations

import asyncio
import marshal
import os
import sys
from asyncio.subprocess import PIPE, Process
from types import TracebackType

from serve_app.dialing.imports.rows import Layout, from_plain
from serve_app.dialing.imports.worker import HEAD_BYTES
from serve_app.errors import ParleyError
from serve_app.store.import_rows import RowResult

MOST_PROCESSES = 4
_BUFFER_BYTES = 1 << 20


class RowWorkerDied(ParleyError):  # noqa: N818
    """A process that reads rows ended before it answered. Trying again may help: the system may have killed it."""


def usual_processes() -> int:
    """One for each core that this process may use, up to `MOST_PROCESSES`."""
    return min(
        MOST_PROCESSES, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


class RowPool:
    """An async context manager; leaving it ends the processes."""

    def __init__(self, layout: Layout, processes: int) -> None:
        self.processes = processes
        self._layout = marshal.dumps(dict(layout))
        self._all: list[Process] = []
        self._idle: asyncio.Queue[Process] = asyncio.Queue()

    async def __aenter__(self) -> RowPool:
        for _ in range(self.processes):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "serve_app.dialing.imports.worker",
                stdin=PIPE,
                stdout=PIPE,
                limit=_BUFFER_BYTES,
            )
            self._all.append(process)
            await _send(process, self._layout)
            self._idle.put_nowait(process)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            if process.returncode is None:
                process.kill()
        await asyncio.gather(*(process.wait() for process in self._all))

    async def read(self, first_row: int, rows: list[list[str] | None]) -> RowResult:
        """`RowReader.read` in another process. Raises RowWorkerDied."""
        process = await self._idle.get()
        await _send(process, marshal.dumps((first_row, rows)))
        assert process.stdout is not None
        try:
            length = int.from_bytes(await process.stdout.readexactly(HEAD_BYTES), "big")
            answer = await process.stdout.readexactly(length)
        except asyncio.IncompleteReadError as error:
            raise RowWorkerDied(f"a process that reads rows ended with code {await process.wait()}") from error
        self._idle.put_nowait(process)
        return from_plain(marshal.loads(answer))  # noqa: S302  (our own child's words)


async def _send(process: Process, document: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(len(document).to_bytes(HEAD_BYTES, "big"))
    process.stdin.write(document)
    try:
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError) as error:
        raise RowWorkerDied(f"a process that reads rows ended with code {await process.wait()}") from error
