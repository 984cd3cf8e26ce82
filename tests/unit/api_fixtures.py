"""A control plane to test against: real SQL, a real Redis, and a fake Vonage.

Use: `pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from serve_app.store.db import Database
from serve_app.store.live import LiveState
from tests.unit.api_support import FakeVonage, Plane, make_plane


@pytest.fixture
async def vonage() -> AsyncIterator[FakeVonage]:
    fake = FakeVonage()
    app = web.Application()
    app.router.add_post("/v1/calls", fake.create)
    app.router.add_get("/v1/calls", fake.listing)
    app.router.add_get("/v1/calls/{uuid}", fake.read)
    app.router.add_put("/v1/calls/{uuid}", fake.modify)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    yield fake
    await runner.cleanup()


@pytest.fixture
async def plane(sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path) -> AsyncIterator[Plane]:
    made, client = await make_plane(sqlite_db, live, vonage, tmp_path)
    async with made.http:
        yield made
    await client.aclose()
