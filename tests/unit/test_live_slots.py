"""Slots and their places in scopes on a real Redis: all or nothing, and they live and end together."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from serve_app.store.live import HeldCall, LiveState
from serve_app.store.slots import SESSIONS, Scope

pytest_plugins = ("tests.unit.store_fixtures",)

CAMPAIGN, TENANT, RINGING, LINES = "campaign:spring", "tenant:acme", "ringing", "lines"
NAMES = (CAMPAIGN, TENANT, RINGING, LINES)


def scopes(**mosts: int) -> list[Scope]:
    return [Scope(name, mosts.get(name.partition(":")[0], 99)) for name in NAMES]


async def held(live: LiveState) -> dict[str, set[str]]:
    """scope -> the slots that count in it, dead leases included; empty scopes left out."""
    found = {name: await live.client.zrange(f"parley:slots:{name}", 0, -1) for name in NAMES}
    found[SESSIONS] = await live.client.zrange("parley:slots", 0, -1)
    return {name: set(slots) for name, slots in found.items() if slots}


@pytest.mark.parametrize("full", [CAMPAIGN, TENANT, RINGING, LINES, SESSIONS])
async def test_who_finds_one_scope_full_takes_a_place_in_none(live: LiveState, full: str) -> None:
    await live.beat("a", 1 if full == SESSIONS else 9, 60)
    limits = scopes(**{full.partition(":")[0]: 1})
    assert await live.reserve_in(limits, "first", 30) is None
    before = await held(live)
    assert before == {name: {"first"} for name in (*NAMES, SESSIONS)}
    assert await live.reserve_in(limits, "second", 30) == full
    assert await held(live) == before and await live.client.exists("parley:scopes:second") == 0
    await live.release("first")
    assert await live.reserve_in(limits, "second", 30) is None


async def test_what_is_asked_first_is_told_first_and_nothing_fits_into_none(live: LiveState) -> None:
    assert await live.reserve_in(scopes(lines=0, tenant=0), "s", 30) == TENANT
    assert await live.reserve_in(scopes(), "s", 30) == SESSIONS
    assert await held(live) == {}


async def test_of_many_that_race_for_the_last_lines_as_many_win_as_there_are(live: LiveState, redis_url: str) -> None:
    await live.beat("a", 50, 60)
    clients = [await LiveState.connect(redis_url) for _ in range(4)]
    limits = scopes(lines=3)
    taken = await asyncio.gather(*(clients[n % 4].reserve_in(limits, f"s{n}", 30) for n in range(40)))
    assert Counter(taken) == {None: 3, LINES: 37}
    assert {name: len(slots) for name, slots in (await held(live)).items()} == dict.fromkeys([*NAMES, SESSIONS], 3)
    for client in clients:
        await client.aclose()


async def test_the_holder_extends_what_it_has_in_full_scopes(live: LiveState) -> None:
    await live.beat("a", 1, 60)
    limits = scopes(campaign=1, tenant=1, ringing=1, lines=1)
    assert await live.reserve_in(limits, "s", 1) is None
    assert await live.reserve_in(limits, "s", 60) is None
    # Also where a limit was lowered meanwhile: the call is there.
    assert await live.reserve_in(scopes(tenant=0, lines=0), "s", 60) is None
    assert await held(live) == {name: {"s"} for name in (*NAMES, SESSIONS)}
    ends = [await live.client.zscore(f"parley:slots:{name}", "s") for name in NAMES]
    assert {end for end in ends if end is not None} == {await live.client.zscore("parley:slots", "s")}
    assert 1_000 < await live.client.pttl("parley:scopes:s") <= 60_000


async def test_an_answered_call_rings_no_more_and_counts_however_full_it_is(live: LiveState) -> None:
    await live.beat("a", 2, 60)
    limits = scopes(tenant=1, ringing=1)
    assert await live.reserve_in(limits, "outbound", 30) is None
    assert await live.reserve("outbound", 30, (CAMPAIGN, TENANT, LINES))
    assert await live.reserve("inbound", 30, (TENANT, LINES))
    assert await held(live) == {
        CAMPAIGN: {"outbound"},
        TENANT: {"outbound", "inbound"},
        LINES: {"outbound", "inbound"},
        SESSIONS: {"outbound", "inbound"},
    }
    assert not await live.reserve("third", 30, (TENANT, LINES)), "but not without a session"
    assert "third" not in (await held(live))[LINES]


async def test_places_end_with_their_slot_and_a_second_release_harms_nobody(live: LiveState) -> None:
    await live.beat("a", 9, 60)
    limits = scopes(lines=2)
    assert await live.reserve_in(limits, "dead", 0.1) is None
    assert await live.reserve_in(limits, "lives", 0.1) is None
    assert await live.keep("lives", 60)
    await asyncio.sleep(0.2)
    assert not await live.keep("dead", 60)
    assert await live.reserve_in(limits, "next", 30) is None, "the line of the dead one is free"
    assert await live.reserve_in(limits, "more", 30) == LINES, "that of the other was kept with its slot"
    for _ in range(2):
        await live.release("lives")
    await live.release("never seen")
    assert (await held(live))[LINES] == {"next"}
    await live.release("next")
    assert await held(live) == {}
    assert [key async for key in live.client.scan_iter("parley:scopes:*")] == []


async def test_after_a_flush_the_beats_of_live_calls_bring_their_places_back(live: LiveState) -> None:
    await live.beat("a", 9, 60)
    limits = scopes(lines=2)
    assert await live.reserve_in(limits, "talks", 30) is None
    assert await live.reserve_in(limits, "rings", 30) is None
    await live.client.flushall()
    await live.beat("a", 1, 60)
    calls = [HeldCall(slot, slot, 1, {}, (TENANT, LINES)) for slot in ("talks", "late")]
    assert await live.hold(calls, slot_ttl_s=30, lease_ttl_s=8) == [True, True]
    # A call that talks counts even where no session is left for it; one that rings does so when it is answered.
    assert await held(live) == {TENANT: {"talks", "late"}, LINES: {"talks", "late"}, SESSIONS: {"talks"}}
    assert await live.reserve_in(limits, "new", 30) == LINES
    for slot in ("talks", "late"):
        await live.release(slot)
    assert await held(live) == {}


async def test_no_scope_stays_for_ever(live: LiveState) -> None:
    await live.beat("a", 9, 60)
    assert await live.reserve_in(scopes(), "s", 30) is None
    for name in NAMES:
        assert 30_000 < await live.client.pttl(f"parley:slots:{name}") <= 3_600_000
