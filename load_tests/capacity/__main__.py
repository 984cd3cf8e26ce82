"""`python -m load_tests.capacity`: print the tables; `--write-docs`: put them into docs/capacity.md.

`--take RESULT` first puts callbench's figures into the inputs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from load_tests.capacity.document import DOCUMENT, fill, tables
from load_tests.capacity.inputs import INPUTS, load_inputs
from load_tests.capacity.measured import from_callbench, rewrite


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m load_tests.capacity", description=__doc__)
    parser.add_argument("--inputs", type=Path, default=INPUTS)
    parser.add_argument("--write-docs", action="store_true", help=f"regenerate the tables of {DOCUMENT}")
    parser.add_argument("--take", type=Path, metavar="RESULT", help="callbench's result.json")
    chosen = parser.parse_args()
    if chosen.take is not None:
        values = from_callbench(chosen.take)
        chosen.inputs.write_text(rewrite(chosen.inputs.read_text(encoding="utf-8"), values), encoding="utf-8")
    parts = tables(load_inputs(chosen.inputs))
    if chosen.write_docs:
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), parts), encoding="utf-8")
        return 0
    for name, part in parts.items():
        print(f"\n## {name}\n\n{part}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
