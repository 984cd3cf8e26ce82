"""One platform for all tests that do not break it; it is gone before the tests that start their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.harness import Running, a_platform
from tests.integration.platform.scripted import Ended, Script, ScriptedCalls, scripted_calls


@pytest.fixture(scope="package")
def platform() -> Iterator[Running]:
    # A short path: Redis listens on a socket in it.
    with tempfile.TemporaryDirectory(prefix="pt-") as folder, a_platform(Path(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def calls(platform: Running, request: pytest.FixtureRequest) -> Iterator[ScriptedCalls]:
    """The calls of all scripts that the chosen tests of this module ask for."""
    scripts: list[Script] = [
        item.callspec.params["ended"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.module is request.module and "ended" in item.fixturenames
    ]
    with scripted_calls(platform, scripts) as placed:
        yield placed


@pytest.fixture
def ended(calls: ScriptedCalls, request: pytest.FixtureRequest) -> Ended:
    """The call of the script that the test is parametrized with, after its end."""
    return calls.ended(request.param)
