"""How the simulated network conducts itself: populations, shares of faults, its clock and memory. All of it repeats."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from pydantic import ValidationError

from serve_app.simulators.callee import CalleeBehaviour
from serve_app.simulators.network_conduct import NetworkConduct
from serve_app.telephony.vonage.rest import OutcomeUnknown, PlacedCall, VonageClient
from tests.unit.network_fixtures import CALLEE, CALLER, Platform, eventually, platform, vonage_network, vonage_settings

MIXED = {"answer": 40, "voicemail": 10, "no_answer": 20, "busy": 15, "rejected": 5, "unanswered": 5, "failed": 5}
BUSY = CalleeBehaviour(outcome="busy", answer_after_ms=10)


def conduct(**values: Any) -> NetworkConduct:
    return NetworkConduct.model_validate(values)


async def place(url: str, it: Platform, to: str = CALLEE, **extra: Any) -> PlacedCall:
    client = VonageClient(vonage_settings(url))
    try:
        return await client.create_call(to, CALLER, answer_url=f"{it.url}/answer", event_url=f"{it.url}/event", **extra)
    finally:
        await client.aclose()


def drawn(seed: int, count: int = 4000) -> list[CalleeBehaviour]:
    population = conduct(seed=seed, population={"outcomes": MIXED, "ring_ms": [4000, 9000], "talk_ms": [1000, 3000]})
    behaviours = [population.luck(f"4477009{n:05d}", 1).behaviour() for n in range(count)]
    return [behaviour for behaviour in behaviours if behaviour is not None]


def test_outcomes_come_in_the_shares_that_were_asked_for() -> None:
    found = drawn(seed=3)
    shares = Counter(behaviour.outcome for behaviour in found)
    for outcome, weight in MIXED.items():
        # Five standard deviations at most: the draw is fixed by its seed.
        assert abs(shares[outcome] / 4000 - weight / 100) < 5 * (0.25 / 4000) ** 0.5
    assert {4000 <= b.answer_after_ms <= 9000 and 1 <= b.max_duration_s <= 3 for b in found} == {True}
    assert found == drawn(seed=3) and found != drawn(seed=4)


def test_each_call_to_a_number_draws_for_itself_whatever_the_order() -> None:
    one = conduct(population={"outcomes": MIXED}, webhooks={"lost": 0.3, "duplicated": 0.3})
    calls = [("447700900001", n) for n in range(1, 9)] + [("447700900002", n) for n in range(1, 9)]

    def outcomes(order: list[tuple[str, int]]) -> dict[tuple[str, int], Any]:
        found = {}
        for call in order:
            luck = one.luck(*call)
            found[call] = luck.behaviour(), luck.loses_response(), [luck.of_webhook() for _ in range(5)]
        return found

    forward = outcomes(calls)
    assert forward == outcomes(calls[::-1])
    assert len({behaviour.model_dump_json() for behaviour, _, _ in forward.values()}) > 4


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"webhooks": {"lost": 0.6, "late": 0.6}}, "more than 1"),
        ({"population": {"outcomes": {"answer": 1}, "talk_ms": [900, 100]}}, "write [100, 900]"),
        ({"population": {"outcomes": {}}}, "outcomes"),
        ({"population": {"outcomes": {"engaged": 1}}}, "engaged"),
        ({"sped": 60}, "sped"),
    ],
)
async def test_what_makes_no_sense_is_told_by_the_control_api(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError):
        conduct(**values)
    async with vonage_network() as (url, network), aiohttp.ClientSession() as http:
        async with http.put(f"{url}/sim/network/conduct", json=values) as answer:
            assert answer.status == 422 and told in await answer.text()
        assert network.conduct == NetworkConduct()


async def test_phones_ring_by_the_networks_clock() -> None:
    """A minute of ringing and more, twice: in real time the test would run into its limit."""
    silent = CalleeBehaviour(outcome="no_answer")
    slow = CalleeBehaviour(outcome="busy", answer_after_ms=50_000)
    async with platform() as it, vonage_network(conduct=conduct(speed=600)) as (url, network):
        network.callees |= {CALLEE[1:]: silent, "447700900009": slow}
        unanswered = await place(url, it, ringing_timer=120)
        engaged = await place(url, it, "+447700900009", ringing_timer=120)
        await eventually(lambda: {"completed"} <= set(it.statuses(unanswered.uuid)) & set(it.statuses(engaged.uuid)))
        assert it.statuses(unanswered.uuid) == ["started", "ringing", "timeout", "completed"]
        assert it.statuses(engaged.uuid) == ["started", "ringing", "busy", "completed"]


async def test_a_number_of_its_own_comes_before_the_population() -> None:
    async with platform() as it, vonage_network(conduct=conduct(population={"outcomes": {"rejected": 1}})) as (url, n):
        n.callees[CALLEE[1:]] = CalleeBehaviour(outcome="failed", answer_after_ms=1, detail="number_out_of_service")
        own = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(own.uuid))
        (failed,) = (e.document for e in it.events if e.document["status"] == "failed")
        assert failed["detail"] == "number_out_of_service"
        n.conduct = conduct(speed=3600, population={"outcomes": {"rejected": 1}})
        drawn_one = await place(url, it, "+447700900008")
        await eventually(lambda: "rejected" in it.statuses(drawn_one.uuid))


async def test_a_voicemail_box_answers_greets_and_beeps() -> None:
    mailbox = conduct(speed=3600, population={"outcomes": {"voicemail": 1}, "talk_ms": [8000, 8000]})
    async with platform() as it, vonage_network(conduct=mailbox) as (url, network):
        placed = await place(url, it)
        await eventually(lambda: it.media_text)
        call = network.calls[placed.uuid]
        await eventually(lambda: call.callee.steps_done == 2)
        assert call.media is not None
        greeting, beep = call.media.utterances
        assert greeting.text is not None and greeting.text.startswith("You have reached")
        assert beep.text is None and len(beep.pcm) == 500 * 16 * 2
        assert not [e for e in it.events if e.document["status"] in ("human", "machine")]


@pytest.mark.parametrize(
    ("asked", "outcome", "told"),
    [
        ({"machine_detection": "continue"}, "voicemail", [("machine", None)]),
        ({"machine_detection": "continue"}, "answer", [("human", None)]),
        (
            {"advanced_machine_detection": {"mode": "default"}},
            "voicemail",
            [("machine", None), ("machine", "beep_start")],
        ),
        ({"advanced_machine_detection": {"mode": "default", "behavior": "hangup"}}, "voicemail", [("machine", None)]),
    ],
)
async def test_machine_detection_tells_what_it_was_asked_for(asked: Any, outcome: Any, told: Any) -> None:
    steps = ({"beep_ms": 120},) if outcome == "voicemail" else ()
    behaviour = CalleeBehaviour.model_validate(
        {"outcome": outcome, "answer_after_ms": 1, "steps": [*steps, {"hang_up": True}]}
    )
    async with platform() as it, vonage_network(default_callee=behaviour) as (url, _):
        placed = await place(url, it)
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        it.events.clear()
        client = VonageClient(vonage_settings(url))
        body = {
            "to": [{"type": "phone", "number": CALLEE[1:]}], "from": {"type": "phone", "number": CALLER[1:]},
            "answer_url": [f"{it.url}/answer"], "answer_method": "POST", "event_url": [f"{it.url}/event"], **asked,
        }  # fmt: skip
        answer = await client._request("POST", f"{url}/v1/calls", json=body)
        await client.aclose()
        uuid = answer.json()["uuid"]
        await eventually(lambda: "completed" in it.statuses(uuid))
        detected = [e.document for e in it.events if e.document["status"] in ("human", "machine")]
        assert [(event["status"], event.get("sub_state")) for event in detected] == told
        # The documented quirk.
        assert all(event["call_uuid"] == uuid and "uuid" not in event for event in detected)


@pytest.mark.parametrize(
    ("shares", "arrived"),
    [
        ({"lost": 1}, []),
        ({"duplicated": 1}, ["busy", "busy", "completed", "completed", "ringing", "ringing", "started", "started"]),
        ({"late": 1, "late_ms": [1, 40]}, ["busy", "completed", "ringing", "started"]),
        ({"reordered": 1}, ["busy", "completed", "ringing", "started"]),
    ],
)
async def test_webhooks_by_shares(shares: dict[str, Any], arrived: list[str]) -> None:
    async with (
        platform() as it,
        vonage_network(default_callee=BUSY, conduct=conduct(webhooks=shares)) as (url, network),
    ):
        placed = await place(url, it)
        await eventually(lambda: network.calls[placed.uuid].over and len(it.events) == len(arrived))
        statuses = it.statuses(placed.uuid)
        assert sorted(statuses) == arrived
        if "reordered" in shares:
            assert statuses == ["ringing", "started", "completed", "busy"]


async def test_a_share_of_the_answers_is_lost_and_the_calls_are_made_all_the_same() -> None:
    half = conduct(lost_responses=0.5)
    async with platform() as it, vonage_network(default_callee=BUSY, conduct=half, calls_per_second=100) as (url, n):
        lost = 0
        for number in range(12):
            try:
                await place(url, it, f"+4477009000{number:02d}")
            except OutcomeUnknown:
                lost += 1
        assert 0 < lost < 12
        assert len(n.calls) == n.create_requests == 12


async def test_the_list_lags_and_the_store_forgets() -> None:
    now = datetime.now(UTC)
    span = (now - timedelta(minutes=1), now + timedelta(minutes=9))
    async with platform() as it, vonage_network(default_callee=BUSY, conduct=conduct(list_lag_ms=600_000)) as (url, n):
        client = VonageClient(vonage_settings(url))
        placed = await place(url, it)
        assert await client.list_calls(*span) == []
        assert await client.get_call(placed.uuid) is not None
        await eventually(lambda: "completed" in it.statuses(placed.uuid))
        # Two days on the network's clock are 48 s; none of that may be waited for here.
        n.conduct = conduct(speed=3600)
        assert [call.uuid for call in await client.list_calls(*span)] == [placed.uuid]
        ended_at = n.calls[placed.uuid].ended_at
        assert ended_at is not None
        n.calls[placed.uuid].ended_at = ended_at - timedelta(seconds=49)
        assert await client.list_calls(*span) == []
        assert await client.get_call(placed.uuid) is None
        await client.aclose()
