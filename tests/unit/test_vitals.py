"""The census of a replica: an ended call that something still holds is seen."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import deployments.vitals as vitals_module
from deployments.vitals import Vitals
from serve_app import metrics
from serve_app.latency_counts import LatencyCounts
from serve_app.store.live import LiveState
from serve_app.store.reports import TURNS, VITALS, Reports
from tests.unit.providers_fixtures import eventually

pytest_plugins = ("tests.unit.store_fixtures",)


class Call:
    """Holds itself, as a session and its callbacks do."""

    def __init__(self) -> None:
        self.myself = self


@pytest.fixture
def no_chance_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitals_module, "INTERVAL_S", 0.02)


async def replica_report(reports: Reports, **wanted: int) -> dict[str, Any]:
    """Once there is one with these values."""
    async with asyncio.timeout(30):
        while True:
            said = (await reports.all()).get("replica")
            if said is not None and wanted.items() <= said.items():
                return said
            await asyncio.sleep(0.01)


async def test_a_call_is_held_until_it_is_freed(live: LiveState, no_chance_collection: None, quick: None) -> None:
    vitals, reports = Vitals(live, "sessions", "replica"), Reports(live, VITALS)

    async def reported(open_calls: int, held: int) -> None:
        said = await replica_report(reports, calls_open=open_calls, calls_held=held)
        assert said["tasks"] >= 1 and said["threads"] >= 1 and said["rss_bytes"] > 1e6

    running = asyncio.create_task(vitals.run())
    kept, dropped = Call(), Call()
    with vitals.call(kept), vitals.call(dropped):
        await reported(2, 2)
    del dropped
    # Nothing is open: the cycle of the one is collected, the other is still referenced from here.
    await reported(0, 1)
    assert vitals.measure()["calls_begun"] == 2
    del kept
    with vitals.call(Call()):
        pass
    await reported(0, 0)
    running.cancel()


async def test_the_replies_of_the_process_are_reported_once_there_are_any(
    live: LiveState, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, reports = LatencyCounts(), Reports(live, TURNS)
    monkeypatch.setattr(metrics, "LATENCIES", counts)
    monkeypatch.setattr(metrics, "SESSIONS", CollectorRegistry())
    running = asyncio.create_task(Vitals(live, "sessions", "replica").run())
    vitals = Reports(live, VITALS)
    await replica_report(vitals)
    assert await reports.all() == {}
    counts.reply({"total_ms": 390.0}, {}, ["llm_late"])
    said = await replica_report(reports)
    assert said == {**counts.report(), "counters": []}
    assert said["causes"] == {"llm_late": 1}
    running.cancel()


async def test_a_process_that_is_never_idle_frees_ended_calls_all_the_same(
    live: LiveState, no_chance_collection: None, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vitals_module, "COLLECT_AFTER", 5)
    vitals = Vitals(live, "sessions", "replica")
    running = asyncio.create_task(vitals.run())
    with vitals.call(Call()):
        for _ in range(4):
            with vitals.call(Call()):
                pass
        await asyncio.sleep(0.2)
        assert vitals.measure()["calls_held"] == 5, "few ended calls are not worth a collection"
        with vitals.call(Call()):
            pass
        await eventually(lambda: vitals.measure()["calls_held"] == 1)
    running.cancel()
