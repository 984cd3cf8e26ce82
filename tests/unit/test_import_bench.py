"""The benchmark of imports expects what its files hold."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from load_tests.imports import make_file
from serve_app.dialing.imports.config import import_config
from serve_app.dialing.imports.header import columns_of
from serve_app.dialing.imports.layout import make_layout
from serve_app.dialing.imports.rows import RowReader


def test_the_faults_of_a_generated_file_are_those_that_it_expects(tmp_path: Path) -> None:
    made = make_file(tmp_path / "leads.csv", 2000)
    with made.path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = columns_of(header, import_config())
    layout = make_layout(
        names=list(columns.names),
        fields=dict(columns.fields),
        custom=list(columns.custom),
        region="US",
        to_call=True,
        source="",
        now="2026-01-01T00:00:00+00:00",
        config=import_config(),
    )
    result = RowReader(layout).read(2, [*rows])
    numbers = Counter(lead.number for lead in result.accepted)
    found = Counter(fault.code for fault in result.faults)
    found += Counter(accepted=len(numbers), duplicate_in_file=numbers.total() - len(numbers))
    assert found == made.expected
    assert 0.03 < 1 - made.expected["accepted"] / 2000 < 0.07
