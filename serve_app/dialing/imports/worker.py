"""A process that reads rows: a length and a `marshal` document in, the same out, until its input ends.

It ends with its parent, however that ends: a pool of the standard library would leave it behind. It is started as
`python -m serve_app.dialing.imports.worker`, so that nothing of the parent's main module is imported.
"""

from __future__ import annotations

import marshal
import os
import sys
from contextlib import suppress
from typing import Any, BinaryIO, cast

from serve_app.dialing.imports.rows import Layout, RowReader, as_plain

HEAD_BYTES = 4
NICENESS = 10
"""Live calls on the same machine come first."""


def main() -> None:
    """The first document is the layout, the others are (first row, rows)."""
    os.nice(NICENESS)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    layout = _receive(source)
    if layout is None:
        return
    reader = RowReader(cast(Layout, layout))
    while (chunk := _receive(source)) is not None:
        answer = marshal.dumps(as_plain(reader.read(*chunk)))
        sink.write(len(answer).to_bytes(HEAD_BYTES, "big"))
        sink.write(answer)
        sink.flush()


def _receive(source: BinaryIO) -> Any:
    """None at the end of the input."""
    head = source.read(HEAD_BYTES)
    if len(head) < HEAD_BYTES:
        return None
    length = int.from_bytes(head, "big")
    document = source.read(length)
    # Both ends are one program of one interpreter, which is what marshal asks for; it is twice as fast as pickle.
    return marshal.loads(document) if len(document) == length else None  # noqa: S302


if __name__ == "__main__":
    # The parent is gone: there is nobody to tell.
    with suppress(BrokenPipeError):
        main()
