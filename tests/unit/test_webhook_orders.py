"""Webhooks of one attempt in every order, some of them twice, through the API into SQL: one final state."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from serve_app.api.folding import fold
from serve_app.api.inbox import LEFT_BEHIND_AFTER
from serve_app.dialing.links import AttemptLinks, AttemptRef
from serve_app.store.agents import Agents
from serve_app.store.campaign_models import Usage
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.db import Database
from serve_app.store.lead_claims import ClaimedLead
from serve_app.store.live import LiveState
from serve_app.store.models import CallEvent
from serve_app.store.repositories import Attempts, Calls
from serve_app.store.rows import Cost
from tests.unit import campaign_support as support
from tests.unit.api_support import AGENT, FROM, FakeVonage, Plane, StoppedClock, make_plane, send

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

TENANT = "default"
Document = dict[str, Any]


def happened(status: str, second: int, **fields: Any) -> Document:
    return {"status": status, "second": second, **fields}


ANSWER = {"answer": True}
LEG_FAILED = happened("failed", 6, leg=True, detail="refused")
SETS: dict[str, list[Document]] = {
    "busy": [happened("started", 0), happened("ringing", 1), happened("busy", 9), happened("completed", 10)],
    "two causes": [happened("timeout", 9), happened("busy", 8, detail="x"), happened("completed", 10)],
    "no such number": [
        happened("busy", 7),
        happened("failed", 8, detail="number_out_of_service"),
        happened("answered", 5),
        happened("completed", 10),
    ],
    "hung up at once": [ANSWER, happened("answered", 4), happened("completed", 6, disconnected_by="user")],
    "no socket": [ANSWER, happened("answered", 4), LEG_FAILED, happened("completed", 7, price="0.00083333")],
    "answered is missing": [
        happened("ringing", 1),
        happened("completed", 20, duration="12", second_of_start=8, disconnected_by="user", price="0.00083333"),
        happened("completed", 20, disconnected_by="platform", price="0.00250000"),
    ],
    "voicemail": [
        ANSWER,
        happened("answered", 4),
        happened("machine", 8),
        happened("completed", 12, disconnected_by="user"),
    ],
    "only completed": [happened("started", 0), happened("ringing", 1), happened("completed", 30, price="0.00000000")],
}
"""Events that say something of one attempt; `second`: of the network's clock."""
COSTS = {"answered is missing": 2500, "no socket": 834, "only completed": 0}
"""In millionths of a euro, of those whose events tell of it."""
EXPECTED: dict[str, tuple[str, str, str | None]] = {
    "busy": ("busy", "deferred", "busy"),
    "two causes": ("busy", "deferred", "busy"),
    "no such number": ("failed", "barred", "invalid_number"),
    "hung up at once": ("callee_hung_up", "deferred", "human_short"),
    "no socket": ("media_failure", "deferred", "human_short"),
    "answered is missing": ("callee_hung_up", "deferred", "human_short"),
    "voicemail": ("callee_hung_up", "deferred", "machine"),
    "only completed": ("not_answered", "deferred", "no_answer"),
}


class Line:
    """One tenant's plane and a running campaign, whose calls have all been asked of the network."""

    def __init__(self, plane: Plane, campaign: CampaignRow, claimed: list[ClaimedLead], clock: StoppedClock) -> None:
        self.plane, self.campaign, self.clock = plane, campaign, clock
        self._claimed = claimed

    async def call(self) -> tuple[ClaimedLead, AttemptRef]:
        claimed = self._claimed.pop()
        return claimed, AttemptRef(TENANT, claimed.attempt_id)

    async def deliver(self, ref: AttemptRef, call_id: str, document: Document) -> None:
        """As the network sends it; each delivery is signed anew, as a retry is."""
        fields = {k: v for k, v in document.items() if k not in ("answer", "second", "second_of_start", "leg")}
        links, uuid = AttemptLinks(self.plane.settings), f"uuid-{ref.attempt_id}"
        body: Document = {"uuid": uuid, "to": "12015550199", "from": FROM[1:], "conversation_uuid": "CON-1", **fields}
        if document.get("leg"):
            body |= {"uuid": f"leg-{ref.attempt_id}", "to": f"wss://parley.example/media/{call_id}"}
        if "second" in document:
            body["timestamp"] = self._time(document["second"])
        if "second_of_start" in document:
            body["start_time"] = self._time(document["second_of_start"])
        url = links.answer_url(ref) if document.get("answer") else links.event_url(ref)
        # Signed at the platform's time, which does not move.
        assert (await send(self.plane, url, body, iat=int(self.clock.time.timestamp()))).status_code == 200

    def _time(self, second: int) -> str:
        # Before now, since now does not move.
        return (self.clock.time - timedelta(seconds=60 - second)).isoformat()

    async def state(self, claimed: ClaimedLead) -> dict[str, Any]:
        """All that is to be the same in the end."""
        call = await Calls(self.plane.db, TENANT).get(claimed.call_id)
        attempt = await Attempts(self.plane.db, TENANT).get(claimed.attempt_id)
        lead = await support.lead_of(self.plane.db, self.campaign, claimed.lead.number)
        assert call is not None and attempt is not None
        return {
            "call": (call.status, call.outcome, call.detail, call.answered_at, call.ended_at),
            "attempt": (attempt.status, attempt.disposition, attempt.detail, attempt.ended_at, attempt.result),
            "cost": attempt.cost,
            "lead": (lead.state, lead.last_result, lead.last_reason, lead.attempts, lead.caller_id),
            "settled": attempt.settled_at is not None,
        }


async def make_line(db: Database, live: LiveState, vonage: FakeVonage, folder: Path, calls: int) -> tuple[Line, Any]:
    clock = StoppedClock(datetime.now(UTC))
    plane, client = await make_plane(db, live, vonage, folder, clock=clock)
    numbers = [support.number(n) for n in range(calls)]
    campaign = await support.campaign(db, leads=numbers, tenant=TENANT)
    await Agents(db, TENANT).apply("front-desk", AGENT | {"name": "front-desk"})
    claimed = list((await support.claim(db, campaign, limit=calls)).leads)
    assert len(claimed) == calls
    attempts = Attempts(db, TENANT)
    for attempt in await attempts.claim_intended("me", limit=calls, lease_s=60, now=datetime.now(UTC)):
        assert await attempts.fence_placing(attempt.id, attempt.epoch)
    await live.beat("replica-1", 10_000, ttl_s=600)
    return Line(plane, campaign, claimed, clock), client


def orders(events: Sequence[Document], most: int, rng: random.Random) -> list[list[Document]]:
    """Permutations, each with one or two of the events a second time somewhere."""
    every = list(itertools.permutations(events))
    chosen = rng.sample(every, min(most, len(every)))
    found = []
    for order in chosen:
        longer = list(order)
        for again in rng.sample(list(events), rng.randint(1, min(2, len(events)))):
            longer.insert(rng.randint(0, len(longer)), again)
        found.append(longer)
    return found


async def check_orders(line: Line, name: str, every: list[list[Document]]) -> None:
    states = []
    for order in every:
        claimed, ref = await line.call()
        for document in order:
            await line.deliver(ref, claimed.call_id, document)
        states.append(await line.state(claimed))
    for order, state in zip(every, states, strict=True):
        assert state == states[0], (name, order)
    outcome, lead_state, result = EXPECTED[name]
    assert states[0]["call"][:2] == ("failed", outcome)
    assert states[0]["lead"][:2] == (lead_state, result)
    assert states[0]["settled"]
    assert states[0]["cost"] == (Cost(COSTS[name], "EUR") if name in COSTS else None)


@pytest.mark.parametrize("name", SETS)
async def test_every_order_and_repetition_ends_in_one_state(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path, name: str
) -> None:
    every = orders(SETS[name], 10, random.Random(name))
    line, client = await make_line(sqlite_db, live, vonage, tmp_path, len(every))
    async with line.plane.http:
        await check_orders(line, name, every)
        async with sqlite_db.session() as session:
            kept = await session.scalar(select(func.count()).select_from(CallEvent))
            answered = await session.scalar(select(func.sum(Usage.answered)))
            calls = await session.scalar(select(func.sum(Usage.calls)))
            cost = await session.scalar(select(func.sum(Usage.cost_micros)))
        # Every delivery has a signature of its own, so each is a record.
        assert kept == sum(map(len, every))
        assert calls == len(every)
        assert cost == len(every) * COSTS.get(name, 0)
        assert answered == (
            len(every)
            if any(d.get("status") == "answered" for d in SETS[name]) or any("duration" in d for d in SETS[name])
            else 0
        )
    await client.aclose()


async def test_what_a_call_with_a_conversation_costs_is_shown(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    line, client = await make_line(sqlite_db, live, vonage, tmp_path, 1)
    async with line.plane.http as http:
        claimed, ref = await line.call()
        await line.deliver(ref, claimed.call_id, happened("answered", 4))
        assert await Calls(sqlite_db, TENANT).in_progress(claimed.call_id, line.clock.time)
        path = f"/api/v1/campaigns/{line.campaign.id}"
        (job,) = (await http.get(f"{path}/jobs", headers=line.plane.auth)).json()["items"]
        assert (job["cost"], job["cost_currency"]) == (None, None)
        for price in ("0.00083333", "", "0.00083333"):
            await line.deliver(ref, claimed.call_id, happened("completed", 20, price=price))
        (job,) = (await http.get(f"{path}/jobs", headers=line.plane.auth)).json()["items"]
        assert (job["cost"], job["cost_currency"], job["agent"]) == ("0.000834", "EUR", "front-desk")
        assert (await http.get(f"{path}/stats", headers=line.plane.auth)).json()["cost"] == {"EUR": "0.000834"}
    await client.aclose()


@pytest.mark.parametrize("name", ["no socket", "no such number"])
async def test_events_that_come_at_once_end_in_the_same_state(
    db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path, name: str
) -> None:
    rounds = 3
    line, client = await make_line(db, live, vonage, tmp_path, rounds + 1)
    async with line.plane.http:
        first, ref = await line.call()
        for document in SETS[name]:
            await line.deliver(ref, first.call_id, document)
        expected = await line.state(first)
        for _ in range(rounds):
            claimed, ref = await line.call()
            both = SETS[name] * 2
            await asyncio.gather(*(line.deliver(ref, claimed.call_id, document) for document in both))
            await line.plane.inbox.settled()
            assert await line.state(claimed) == expected
        async with db.session() as session:
            waiting = select(func.count()).select_from(CallEvent).where(CallEvent.unfolded_since.is_not(None))
            assert await session.scalar(waiting) == 0
    await client.aclose()


def failing_for(status: str) -> Any:
    """The fold, but for one kind of event."""

    async def failing(deps: Any, event: Any, *rest: Any, **more: Any) -> str:
        if event.status == status:
            raise RuntimeError("an odd event")
        return await fold(deps, event, *rest, **more)

    return failing


async def test_what_a_process_left_behind_is_folded_by_the_next(
    db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, client = await make_line(db, live, vonage, tmp_path, 2)
    name = "no such number"
    async with line.plane.http:
        first, ref = await line.call()
        for document in SETS[name]:
            await line.deliver(ref, first.call_id, document)
        expected = await line.state(first)
        claimed, ref = await line.call()
        with monkeypatch.context() as patch:
            # It dies after the acknowledgement, before it folds.
            patch.setattr(line.plane.inbox, "_folding", True)
            patch.setattr("serve_app.api.inbox.MOST_WAITING", 0)
            await asyncio.gather(*(line.deliver(ref, claimed.call_id, document) for document in SETS[name]))
        await line.plane.inbox.settled()
        call = await Calls(db, TENANT).get(claimed.call_id)
        assert call is not None and call.status == "dialing"
        assert await line.plane.inbox.sweep() == 0  # not yet: whoever took them may be at it
        line.clock.time += LEFT_BEHIND_AFTER + timedelta(seconds=1)
        with monkeypatch.context() as patch:
            # One event cannot be folded: the others are, and it is tried again after them.
            patch.setattr("serve_app.api.inbox.fold", failing_for("busy"))
            assert await line.plane.inbox.sweep() == len(SETS[name])
            assert await line.plane.inbox.sweep() == 0
        line.clock.time += LEFT_BEHIND_AFTER + timedelta(seconds=1)
        assert await line.plane.inbox.sweep() == 1
        assert await line.plane.inbox.sweep() == 0
        assert await line.state(claimed) == expected
    await client.aclose()


async def test_an_end_that_a_person_made_is_not_corrected(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    line, client = await make_line(sqlite_db, live, vonage, tmp_path, 1)
    async with line.plane.http:
        claimed, ref = await line.call()
        await line.deliver(ref, claimed.call_id, happened("ringing", 1))
        assert await support.end(sqlite_db, claimed.call_id, "agent_hung_up", tenant=TENANT, detail="by a person")
        before = await line.state(claimed)
        for document in (happened("busy", 3), happened("completed", 4), happened("answered", 2)):
            await line.deliver(ref, claimed.call_id, document)
        assert await line.state(claimed) == before
    await client.aclose()


async def test_the_end_that_the_reconciler_saw_is_explained_by_what_comes_later(
    sqlite_db: Database, live: LiveState, vonage: FakeVonage, tmp_path: Path
) -> None:
    vague = "the network ended the call before it was answered"
    line, client = await make_line(sqlite_db, live, vonage, tmp_path, 2)
    async with line.plane.http:
        states = []
        for late in ([happened("busy", 9)], [happened("completed", 10), happened("busy", 9)]):
            claimed, ref = await line.call()
            await line.deliver(ref, claimed.call_id, happened("ringing", 1))
            assert await support.end(sqlite_db, claimed.call_id, "not_answered", tenant=TENANT, detail=vague)
            for document in late:
                await line.deliver(ref, claimed.call_id, document)
            states.append(await line.state(claimed))
        assert states[0] == states[1]
        assert states[0]["call"][1] == "busy"
        assert states[0]["lead"][:2] == ("deferred", "busy")
    await client.aclose()
