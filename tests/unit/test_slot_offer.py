"""What a session replica offers, on a real Redis."""

from __future__ import annotations

import asyncio

import pytest

from deployments.slot_offer import SessionTunables, SlotOffer, check_calls_per_replica
from serve_app.errors import SettingsError
from serve_app.store.live import LiveState
from serve_app.store.reports import DEMAND, LOAD, Reports

pytest_plugins = ("tests.unit.store_fixtures",)


def an_offer(live: LiveState, replica: str = "a", **tunables: float) -> SlotOffer:
    return SlotOffer(replica, live, SessionTunables.model_validate({"max_calls": 4, "spare_slots": 2, **tunables}))


def stall(offer: SlotOffer, lag_ms: float) -> None:
    offer.lag._lags_s.extend([lag_ms / 1000] * 50)


async def test_a_replica_offers_its_slots_and_reports_its_load(live: LiveState) -> None:
    offer = an_offer(live)
    offer.calls = 1
    await live.beat("other", 0)
    await offer.beat(draining=False)
    await live.reserve("s", 30)
    assert await live.capacity() == (4, 1)
    report = (await Reports(live, LOAD).all())["sessions:a"]
    assert (report["role"], report["calls"], report["capacity"], report["offered"]) == ("sessions", 1, 4, 4)
    assert report["lag_p95_ms"] == 0


async def test_a_draining_replicas_calls_take_no_room_from_the_others(live: LiveState) -> None:
    """Four calls on a replica that drains, a new replica of four: four more calls can be placed, and no fifth."""
    old, new = an_offer(live, "old"), an_offer(live, "new")
    old.calls = 4
    await old.beat(draining=False)
    for n in range(4):
        assert await live.reserve(f"old-{n}", 30)
    await new.beat(draining=False)
    await old.beat(draining=True)
    assert await live.capacity() == (8, 4)
    assert [await live.reserve(f"new-{n}", 30) for n in range(5)] == [True, True, True, True, False]
    # Its calls end one by one, and so does what it announces.
    await live.release("old-0")
    old.calls = 3
    await old.beat(draining=True)
    assert await live.capacity() == (7, 7)
    old.calls = 0
    await old.beat(draining=True)
    assert (await live.capacity())[0] == 4


async def test_a_lagging_replica_takes_no_more_calls_until_it_is_well_again(live: LiveState) -> None:
    offer = an_offer(live, lag_limit_ms=100)
    offer.calls = 2
    stall(offer, 150)
    await offer.beat(draining=False)
    assert (await live.capacity())[0] == 2 and offer.stats()["strained"] == 1
    stall(offer, 80)  # below the limit, but not yet well
    await offer.beat(draining=False)
    assert (await live.capacity())[0] == 2
    stall(offer, 10)
    await offer.beat(draining=False)
    assert (await live.capacity())[0] == 4 and offer.stats()["strained"] == 0


async def test_an_empty_replica_is_not_blamed_for_a_busy_machine_or_its_own_start(live: LiveState) -> None:
    offer = an_offer(live)
    stall(offer, 500)
    await offer.beat(draining=False)
    assert (await live.capacity())[0] == 4
    offer.calls = 1
    await offer.beat(draining=False)
    assert (await live.capacity())[0] == 4 and not offer.strained


async def test_the_scaling_policy_sees_reserved_slots_and_waiting_calls(live: LiveState) -> None:
    offer = an_offer(live)
    await offer.beat(draining=False)
    await live.reserve("rings", 30)
    await Reports(live, DEMAND).put("dialer-1", {"waiting": 3})
    await Reports(live, DEMAND).put("dialer-2", {"waiting": 2})
    await offer.beat(draining=False)
    assert offer.stats() == {
        "calls_per_replica": 4,
        "spare_slots": 2,
        "slots_used": 1,
        "calls_waiting": 5,
        "strained": 0,
    }


async def test_a_report_ends_with_its_process(live: LiveState) -> None:
    reports = Reports(live, DEMAND)
    await reports.put("gone", {"waiting": 3}, ttl_s=0.001)
    await reports.put("here", {"waiting": 1})
    await reports.put("dropped", {"waiting": 1})
    await reports.drop("dropped")
    await asyncio.sleep(0.005)  # Redis' clock passes the end of "gone"
    assert await reports.all() == {"here": {"waiting": 1}}


def test_contradictory_numbers_name_both_and_the_remedy() -> None:
    check_calls_per_replica(10, 10)
    with pytest.raises(SettingsError, match=r"max_calls is 10 but max_ongoing_requests is 5; set both"):
        check_calls_per_replica(10, 5)
