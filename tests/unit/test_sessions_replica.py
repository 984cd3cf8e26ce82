"""The session process around its calls: what it offers, and what keeps a call alive."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

import deployments.sessions as sessions_module
from deployments.call_beats import CallBeats
from deployments.sessions import CallSessions
from deployments.slot_offer import SessionTunables
from serve_app.errors import SettingsError
from serve_app.store.live import HeldCall


class Live:
    """Redis, and the replica's offer in it, that refuse the first request of each kind as nobody expected."""

    def __init__(self) -> None:
        self.beats: list[int] = []
        self.leases = 0
        self.refused: set[str] = set()
        self.changed = asyncio.Event()
        self.holds = True
        self.calls = 0
        self.tunables = SessionTunables()

    def _refuse_once(self, kind: str) -> None:
        if kind not in self.refused:
            self.refused.add(kind)
            raise RuntimeError("READONLY You can't write against a read only replica")

    async def beat(self, *, draining: bool) -> None:
        self._refuse_once("beat")
        self.beats.append(self.tunables.max_calls)
        self.changed.set()

    async def hold(self, calls: list[HeldCall], *, slot_ttl_s: float, lease_ttl_s: float) -> list[bool]:
        self._refuse_once("hold")
        self.leases += len(calls)
        assert [call.scopes for call in calls] in ([], [CALL.scopes]), "what brings a place back after a flush"
        self.changed.set()
        return [self.holds] * len(calls)


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sessions_module, "BEAT_S", 0.02)
    monkeypatch.setattr("deployments.call_beats.CALL_BEAT_S", 0.02)
    deployment: Any = CallSessions
    replica = object.__new__(deployment.func_or_class)
    monkeypatch.setattr(sessions_module, "_max_ongoing_requests", lambda: 1)
    replica._runtime = SimpleNamespace(live=Live())
    replica._offer = replica._runtime.live
    replica._replica, replica._last_check = "r", time.monotonic()
    replica._configured = asyncio.Event()
    return replica


CALL: Any = SimpleNamespace(call_id="c", tenant_id="t", slot_id="s", epoch=1, scopes=("lines",))


async def test_a_replica_never_offers_more_than_it_is_configured_for(
    replica: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve hands the configuration over after the constructor: N = 1 must not look like 10 meanwhile."""
    monkeypatch.setattr(sessions_module, "BEAT_S", 1.0)
    live = replica._runtime.live
    live.refused.add("beat")
    beat = asyncio.create_task(replica._beat())
    await asyncio.sleep(0.02)
    replica.reconfigure({"max_calls": 1})
    await asyncio.wait_for(live.changed.wait(), 5)
    beat.cancel()
    assert live.beats == [1]


async def test_the_replicas_beat_outlives_any_failure(replica: Any) -> None:
    """Its end would make the replica unhealthy, and cut all of its calls."""
    beat = asyncio.create_task(replica._beat())
    await asyncio.wait_for(replica._runtime.live.changed.wait(), 5)
    assert not beat.done()
    beat.cancel()


async def test_a_calls_beat_outlives_any_failure_and_ends_with_a_newer_session(replica: Any) -> None:
    """A call whose beat ends is taken for dead, and hung up."""
    live = replica._runtime.live
    told: list[dict[str, Any]] = []
    superseded = asyncio.Event()

    async def command(document: dict[str, Any]) -> dict[str, Any]:
        told.append(document)
        superseded.set()
        return {"ok": True}

    beats = CallBeats(live, "r")
    beating = asyncio.create_task(beats.run())
    beats.hold(CALL, command)
    await asyncio.wait_for(live.changed.wait(), 5)
    assert live.leases >= 1 and told == []
    live.holds = False
    await asyncio.wait_for(superseded.wait(), 5)
    assert told == [{"type": "superseded"}]
    leases = live.leases
    await asyncio.sleep(0.1)
    assert live.leases == leases, "it holds the call no more"
    assert not beating.done()
    beating.cancel()


async def test_contradictory_numbers_are_refused_before_the_first_call(replica: Any) -> None:
    with pytest.raises(SettingsError, match="max_calls is 40 but max_ongoing_requests is 1"):
        replica.reconfigure({"max_calls": 40})
    replica.reconfigure({"max_calls": 1})
    # Later both change in one file, and Serve's own number is not to be seen yet.
    replica.reconfigure({"max_calls": 2})
