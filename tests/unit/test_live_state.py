"""Live state on a real Redis: slots, tokens, leases, rate, events."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter

import pytest

from serve_app.errors import SettingsError, UnavailableError
from serve_app.store.live import HeldCall, LiveState

pytest_plugins = ("tests.unit.store_fixtures",)


async def expired(state: LiveState, seconds: float) -> None:
    """Let Redis' own clock pass; nothing but its expiry is under test."""
    await asyncio.sleep(seconds)
    await state.ping()


# --- connecting


async def test_a_redis_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(UnavailableError) as caught:
        await LiveState.connect("redis://user:hunter2@127.0.0.1:1/0", connect_timeout_s=2)
    assert "127.0.0.1:1" in str(caught.value) and "REDIS_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_wrong_url_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match=r"redis\.url"):
        await LiveState.connect("http://127.0.0.1")


# --- slots


async def test_slots_are_the_sum_of_the_live_replicas(live: LiveState) -> None:
    assert not await live.reserve("first", 10)
    await live.beat("a", 2, 10)
    await live.beat("b", 1, 10)
    assert [await live.reserve(f"s{n}", 10) for n in range(4)] == [True, True, True, False]
    assert await live.capacity() == (3, 3)
    assert await live.reserve("s1", 10)  # idempotent
    assert await live.capacity() == (3, 3)
    await live.release("s1")
    await live.release("s1")
    assert await live.reserve("s3", 10)
    await live.leave("a")
    assert await live.capacity() == (1, 3)
    assert not await live.reserve("s4", 10)
    assert await live.keep("s0", 10)  # what is held stays held


async def test_concurrent_reservations_never_exceed_capacity(live: LiveState, redis_url: str) -> None:
    await live.beat("a", 7, 30)
    clients = [await LiveState.connect(redis_url) for _ in range(4)]
    taken = await asyncio.gather(*(clients[n % 4].reserve(f"s{n}", 30) for n in range(60)))
    assert Counter(taken) == {True: 7, False: 53}
    for client in clients:
        await client.aclose()


async def test_slots_and_beats_run_out(live: LiveState) -> None:
    await live.beat("a", 1, 0.2)
    await live.beat("b", 1, 30)
    assert await live.reserve("s0", 0.2) and await live.reserve("s1", 30)
    await expired(live, 0.3)
    assert await live.capacity() == (1, 1)
    assert not await live.keep("s0", 30)
    await live.release("s1")
    assert await live.reserve("s2", 30) and not await live.reserve("s3", 30)


async def test_the_kept_sum_of_slots_is_that_of_the_replicas_whatever_happens(live: LiveState) -> None:
    """Replicas that come, go, grow, shrink and die, and a sum that is lost or wrong."""
    chance = random.Random(3)
    announced: dict[str, int] = {}
    for step in range(300):
        replica = f"r{chance.randrange(8)}"
        if chance.random() < 0.15:
            await live.leave(replica)
            announced.pop(replica, None)
        else:
            announced[replica] = chance.randrange(12)
            await live.beat(replica, announced[replica], 60)
        if step % 40 == 20:
            await live.client.delete("parley:capacity")  # evicted
        if step % 40 == 30 and announced:
            dead = chance.choice(sorted(announced))
            del announced[dead]
            await live.client.zadd("parley:beats", {dead: 1})  # its last beat is over
        assert await live.capacity() == (sum(announced.values()), 0), step
    await live.client.set("parley:capacity", 999, px=50)
    await asyncio.sleep(0.1)
    assert (await live.capacity())[0] == sum(announced.values()), "a wrong sum lasts as long as it is trusted"
    assert 0 < await live.client.pttl("parley:capacity") <= 5000


async def test_a_process_holds_all_of_its_calls_at_once(live: LiveState) -> None:
    await live.beat("a", 2, 30)
    calls = [HeldCall(f"slot-{n}", f"call-{n}", 1, {"replica": "a", "n": n}) for n in range(3)]
    assert await live.hold([], slot_ttl_s=30, lease_ttl_s=10) == []
    assert await live.reserve("slot-0", 30) and await live.reserve("slot-1", 30)
    assert await live.lease_call("call-1", 2, 10, {"replica": "b"})
    # The second call has a newer epoch elsewhere; the third finds no slot, and goes on all the same.
    assert await live.hold(calls, slot_ttl_s=60, lease_ttl_s=10) == [True, False, True]
    assert await live.capacity() == (2, 2)
    leased = await live.leased_calls()
    assert {call_id: info["replica"] for call_id, info in leased.items()} == {
        "call-0": "a",
        "call-1": "b",
        "call-2": "a",
    }
    await live.client.flushall()
    await live.beat("a", 3, 30)
    assert await live.hold(calls[::2], slot_ttl_s=60, lease_ttl_s=10) == [True, True]
    assert await live.capacity() == (3, 2) and set(await live.leased_calls()) == {"call-0", "call-2"}


async def test_a_flush_costs_a_rebuild(live: LiveState) -> None:
    await live.beat("a", 1, 30)
    assert await live.reserve("s", 30) and await live.lease_call("c", 1, 30, {})
    await live.client.flushall()
    assert not await live.keep("s", 30) and await live.leased_calls() == {}
    # What the holders do at their next beat.
    await live.beat("a", 1, 30)
    assert await live.reserve("s", 30) and await live.lease_call("c", 1, 30, {})
    assert await live.capacity() == (1, 1) and set(await live.leased_calls()) == {"c"}


# --- tokens and answers


async def test_a_token_is_good_once(live: LiveState) -> None:
    await live.put_media_token("secret-token", "lease", 10)
    assert not [key async for key in live.client.scan_iter("*secret*")]
    taken = await asyncio.gather(*(live.take_media_token("secret-token") for _ in range(10)))
    assert Counter(taken) == {"lease": 1, None: 9}
    assert await live.take_media_token("never-given") is None


async def test_a_token_runs_out(live: LiveState) -> None:
    await live.put_media_token("t", "lease", 0.05)
    await expired(live, 0.1)
    assert await live.take_media_token("t") is None


async def test_the_first_answer_is_remembered(live: LiveState) -> None:
    answers = await asyncio.gather(*(live.remember_answer("call", f"ncco-{n}", 10) for n in range(10)))
    assert len(set(answers)) == 1
    assert await live.remember_answer("other", "x", 10) == "x"


# --- leases


async def test_an_older_epoch_is_refused(live: LiveState) -> None:
    assert await live.lease_call("c", 1, 10, {"replica": "a"})
    assert await live.lease_call("c", 2, 10, {"replica": "b"})
    assert not await live.lease_call("c", 1, 10, {"replica": "a"})
    assert not await live.drop_call("c", 1)
    assert await live.leased_calls() == {"c": {"replica": "b"}}
    assert await live.drop_call("c", 2)
    assert await live.leased_calls() == {}
    assert not await live.lease_call("c", 1, 10, {}), "the epoch outlives the lease"


async def test_a_lease_runs_out_and_its_last_beat_stays_known(live: LiveState) -> None:
    assert await live.last_beat("c") is None
    await live.lease_call("c", 1, 0.05, {"replica": "a"})
    await expired(live, 0.1)
    assert await live.leased_calls() == {}
    beat = await live.last_beat("c")
    assert beat is not None and beat[1] == {"replica": "a"}


# --- rate


@pytest.mark.parametrize("per_second", [1, 3, 30])
async def test_no_rolling_second_holds_more_than_the_rate(live: LiveState, redis_url: str, per_second: float) -> None:
    clients = [live, *[await LiveState.connect(redis_url) for _ in range(3)]]
    slots = await asyncio.gather(
        *(clients[n % 4].throttle_slot(f"vonage:{per_second}", per_second) for n in range(100))
    )
    times = sorted(slot for slot, _ in slots)
    for start in times:
        # Half open: a call exactly one second later is in the next window.
        assert sum(start <= at < start + 1 for at in times) <= per_second
    assert all(slot >= now for slot, now in slots)
    # And the rate is used: no slot is further from the one before, or from the present, than the margin explains.
    for (before, _), (slot, now) in itertools.pairwise(sorted(slots)):
        assert slot <= max(before + 1.1 / per_second, now) + 1e-5
    for client in clients[1:]:
        await client.aclose()


async def test_a_rate_does_not_save_up(live: LiveState) -> None:
    assert await live.throttle("k", 50) == 0
    await expired(live, 0.3)
    assert await live.throttle("k", 50) == 0
    assert await live.throttle("k", 50) > 0
    assert await live.throttle("other", 50) == 0


async def test_many_commands_may_be_under_way_at_once(live: LiveState) -> None:
    waits = await asyncio.gather(*(live.throttle("k", 1000) for _ in range(300)))
    assert len(waits) == 300


async def test_a_wait_that_is_too_long_reserves_nothing(live: LiveState) -> None:
    assert await live.throttle("k", 1) == 0
    for longest_s in (0.5, 0, -0.5):
        assert 0.9 < await live.throttle("k", 1, longest_s=longest_s) <= 1.1
    assert 0.9 < await live.throttle("k", 1, longest_s=2) <= 1.1, "nobody was to take this slot"


# --- events


async def test_a_follower_gets_every_event_in_order(live: LiveState) -> None:
    await live.publish("c", {"n": 0})

    async def publish() -> None:
        for n in range(1, 30):
            await live.publish("c", {"n": n})

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        seen = [event async for event in live.follow("c", idle_timeout_s=0.5)]
    assert [event["n"] for _, event in seen] == list(range(30))
    middle = seen[9][0]
    assert [event["n"] async for _, event in live.follow("c", middle, idle_timeout_s=0.1)] == list(range(10, 30))
    assert [event async for event in live.follow("another", idle_timeout_s=0.05)] == []


async def test_events_are_bounded_and_run_out(live: LiveState) -> None:
    async with live.client.pipeline(transaction=False) as pipe:
        for _ in range(3000):
            pipe.xadd("call:c:out", {"event": "{}"}, maxlen=1000, approximate=True)
        await pipe.execute()
    await live.publish("c", {"n": 1})
    assert await live.client.xlen("call:c:out") <= 1200
    assert 3_500_000 < await live.client.pttl("call:c:out") <= 3_600_000
