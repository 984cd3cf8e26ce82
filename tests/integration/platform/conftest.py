"""One platform for all tests that do not break it; it is gone before the tests that start their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Running, a_platform


@pytest.fixture(scope="package")
def platform() -> Iterator[Running]:
    # A short path: Redis listens on a socket in it.
    with tempfile.TemporaryDirectory(prefix="pt-") as folder, a_platform(Path(folder)) as running:
        yield running
