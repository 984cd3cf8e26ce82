"""Settings of the whole suite: nothing reads the developer's own configuration, nothing leaves the machine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator

import hypothesis
import pytest
import structlog
import uvloop

for name in [n for n in os.environ if n.startswith("PARLEY_") and not n.startswith("PARLEY_TEST_")]:
    del os.environ[name]
for name in ("DEEPGRAM_API_KEY", "GROQ_API_KEY", "OPENAI_API_KEY", "CARTESIA_API_KEY", "PUBLIC_URL"):
    os.environ.pop(name, None)
for name in [n for n in os.environ if n.startswith("VONAGE_")] + ["DATABASE_URL", "REDIS_URL", "OBJECTS_URL"]:
    os.environ.pop(name, None)
os.environ["NO_PROXY"] = "127.0.0.1,localhost"
# How long an example takes is the machine's doing.
hypothesis.settings.register_profile("parley", deadline=None)
hypothesis.settings.load_profile("parley")


@pytest.fixture(autouse=True)
def own_data_dir(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PARLEY_DATA_DIR", f"{tmp_path}/data")
    yield


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """What a test configures ends with it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Ray's workers run uvloop, whose transports differ in detail: what owns sockets is tested on both loops."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.name == "test_link.py":
        factories["uvloop"] = uvloop.new_event_loop
    return factories
