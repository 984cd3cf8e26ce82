"""The do-not-call list: from the commit on nothing is claimed or placed, by whatever way the call was asked for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.errors import UnavailableError
from serve_app.store.attempts import Attempts
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall, list_number
from serve_app.store.repositories import AttemptRow, Calls, NotToBeCalled
from tests.unit.api_support import TO, Plane
from tests.unit.store_fixtures import NUMBER, finish, inbound, outbound
from tests.unit.test_dialer import Bench, fixture_bench

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")
__all__ = ["fixture_bench"]

LIST = "/api/v1/do-not-call"


async def claim(db: Database, tenant: str = "acme") -> list[AttemptRow]:
    return await Attempts(db, tenant).claim_intended("me", limit=10, lease_s=60, now=datetime.now(UTC))


# --- the store, on SQLite and PostgreSQL


async def test_an_opt_out_lists_the_callee_and_marks_the_call(db: Database) -> None:
    call, _ = await outbound(db)
    listing = DoNotCall(db, "acme")
    await listing.opt_out(call.id, NUMBER, "phrase", "do not call me again")
    await listing.opt_out(call.id, NUMBER, "model", "he repeats himself")
    (entry,), following = await listing.list(limit=10)
    assert (entry.number, entry.source, entry.call_id, entry.text, following) == (
        NUMBER,
        "phrase",
        call.id,
        "do not call me again",
        None,
    )
    marked = await Calls(db, "acme").get(call.id)
    assert marked is not None and marked.opted_out_at is not None
    assert await listing.contains(NUMBER) and not await DoNotCall(db, "globex").contains(NUMBER)


async def test_a_caller_who_withheld_the_number_is_marked_and_not_listed(db: Database) -> None:
    call = await inbound(db)
    await DoNotCall(db, "acme").opt_out(call.id, "anonymous", "key", "9")
    assert await DoNotCall(db, "acme").list(limit=10) == ([], None)
    marked = await Calls(db, "acme").get(call.id)
    assert marked is not None and marked.opted_out_at is not None


async def test_a_listed_number_is_not_queued_claimed_or_placed_until_it_is_taken_off(db: Database) -> None:
    _, attempt = await outbound(db)
    theirs, _ = await outbound(db, tenant="globex")
    listing = DoNotCall(db, "acme")
    await listing.add(NUMBER, "by letter")
    with pytest.raises(NotToBeCalled):
        await outbound(db)
    assert await claim(db) == []
    assert [row.id for row in await Attempts(db, "acme").barred(limit=9)] == [attempt.id]
    assert not await Attempts(db, "acme").fence_placing(attempt.id, 0)
    assert [row.call_id for row in await claim(db, "globex")] == [theirs.id], "another tenant's list is its own"
    assert await listing.remove(NUMBER, reason="agreed anew by e-mail", by="tester") is not None
    (held,) = await claim(db)
    assert await Attempts(db, "acme").fence_placing(held.id, held.epoch)


async def test_a_number_listed_after_the_claim_does_not_pass_the_fence(db: Database) -> None:
    _, attempt = await outbound(db)
    (held,) = await claim(db)
    await DoNotCall(db, "acme").add(NUMBER, "by letter")
    assert not await Attempts(db, "acme").fence_placing(attempt.id, held.epoch)
    unchanged = await Attempts(db, "acme").get(attempt.id)
    assert unchanged is not None and unchanged.status == "intended"


async def test_the_fence_waits_for_a_listing_that_is_being_committed(db: Database) -> None:
    _, attempt = await outbound(db)
    (held,) = await claim(db)
    async with db.transaction() as session:
        await list_number(session, "acme", NUMBER, "key", "9", None, datetime.now(UTC))
        fence = asyncio.create_task(Attempts(db, "acme").fence_placing(attempt.id, held.epoch))
        await asyncio.sleep(0.3)
        assert not fence.done()
    assert await fence is False


async def test_what_was_taken_off_stays_on_record_and_can_be_listed_again(db: Database) -> None:
    listing = DoNotCall(db, "acme")
    first = await listing.add(NUMBER, "by letter")
    assert (await listing.add(NUMBER, "by phone")).id == first.id
    for reason in ("", "  \n"):
        with pytest.raises(ValueError, match="reason"):
            await listing.remove(NUMBER, reason=reason, by="tester")
    off = await listing.remove(NUMBER, reason=" agreed anew ", by="tester")
    assert off is not None
    assert (off.id, off.removed_by, off.removed_reason) == (first.id, "tester", "agreed anew")
    assert await listing.remove(NUMBER, reason="again", by="tester") is None
    assert await listing.list(limit=10) == ([], None)
    again = await listing.add(NUMBER, "changed his mind")
    rows, _ = await listing.list(limit=10, removed=True, number=NUMBER)
    assert [row.id for row in rows] == [again.id, first.id]
    page, cursor = await listing.list(limit=1, removed=True)
    assert (page, cursor) == ([again], again.id)
    assert await listing.list(limit=1, removed=True, before=cursor) == ([off], None)


@pytest.mark.parametrize("number", ["12025550123", "anonymous", "", "+0123456789"])
async def test_only_e164_numbers_are_listed(sqlite_db: Database, number: str) -> None:
    with pytest.raises(ValueError, match=r"E\.164"):
        await DoNotCall(sqlite_db, "acme").add(number, "x")


async def test_a_call_that_was_opted_out_of_says_so_however_it_ended(db: Database) -> None:
    call, attempt = await outbound(db)
    await DoNotCall(db, "acme").opt_out(call.id, NUMBER, "key", "9")
    assert await finish(db, call, "session_lost", status="failed", detail="the process died")
    ended = await Calls(db, "acme").get(call.id)
    assert ended is not None
    assert (ended.status, ended.outcome, ended.detail) == ("completed", "opted_out", "the process died")
    tried = await Attempts(db, "acme").get(attempt.id)
    assert tried is not None and tried.disposition == "opted_out"


# --- the dialer


async def until_declined(bench: Bench, attempt: AttemptRow) -> None:
    ended = await bench.until_status(attempt.id, "ended")
    assert ended.disposition == "not_allowed"
    assert bench.vonage.posts == []
    row = await bench.calls.get(attempt.call_id)
    assert row is not None and row.detail is not None
    assert (row.status, row.outcome) == ("failed", "not_allowed")
    assert row.detail.startswith("on_do_not_call_list: ")
    assert (await bench.live.capacity())[1] == 0


async def test_a_call_that_was_queued_before_its_number_was_listed_is_not_placed(bench: Bench) -> None:
    _, attempt = await bench.call()
    await DoNotCall(bench.db, "default").add(TO, "by letter")
    async with bench.dialing(2):
        await until_declined(bench, attempt)


async def test_a_call_whose_number_is_listed_while_it_waits_for_a_slot_is_not_placed(bench: Bench) -> None:
    await bench.live.leave("replica-1")
    _, attempt = await bench.call(wait_s=20)
    async with bench.dialing() as (dialer,):
        await asyncio.sleep(0.3)
        await DoNotCall(bench.db, "default").add(TO, "by letter")
        dialer.wake()
        await until_declined(bench, attempt)


async def test_a_number_listed_at_the_last_moment_is_not_called(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = bench.live.throttle

    async def listing_meanwhile(*arguments: Any, **options: Any) -> float:
        await DoNotCall(bench.db, "default").add(TO, "by letter")
        return await throttle(*arguments, **options)

    monkeypatch.setattr(bench.live, "throttle", listing_meanwhile)
    _, attempt = await bench.call()
    async with bench.dialing():
        await until_declined(bench, attempt)


async def test_a_list_that_cannot_be_read_means_that_nothing_is_placed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def away(*_: object) -> None:
        nonlocal asked
        asked += 1
        raise UnavailableError("SQL went away")

    monkeypatch.setattr("serve_app.store.attempts.wait_for_listing", away)
    _, attempt = await bench.call()

    async def tried() -> bool:
        return asked > 0

    async with bench.dialing():
        await bench.until(tried)
        await asyncio.sleep(0.2)
    assert bench.vonage.posts == []
    assert (await bench.attempt(attempt.id)).status == "intended"


async def test_many_barred_calls_do_not_hold_up_the_one_that_may_be_placed(bench: Bench) -> None:
    barred = [await bench.call(f"+1202555{1000 + n}") for n in range(45)]
    for call, _ in barred:
        await DoNotCall(bench.db, "default").add(call.to_number, "by letter")
    _, allowed = await bench.call()
    async with bench.dialing():
        await bench.until_status(allowed.id, "placed")
        for _, attempt in barred:
            await bench.until_status(attempt.id, "ended")
    assert len(bench.vonage.posts) == 1


# --- REST


async def test_the_list_over_rest(plane: Plane) -> None:
    waiting = await plane.place()
    listed = await plane.http.post(LIST, json={"number": "+1 202 555 0123", "text": "by letter"}, headers=plane.auth)
    assert listed.status_code == 201, listed.text
    entry = listed.json()
    assert (entry["number"], entry["source"], entry["text"], entry["removed_at"]) == (TO, "person", "by letter", None)
    page = (await plane.http.get(LIST, params={"number": TO}, headers=plane.auth)).json()
    assert page == {"items": [entry], "next_cursor": None}

    refused = await plane.http.post("/api/v1/calls", json={"to": TO}, headers=plane.auth)
    assert (refused.status_code, refused.json()["code"], refused.json()["reason"]) == (
        403,
        "not_allowed",
        "on_do_not_call_list",
    )
    assert "take it off the list" in refused.json()["remedy"]

    off = await plane.http.post(f"{LIST}/remove", json={"number": TO, "reason": "agreed anew"}, headers=plane.auth)
    assert (off.status_code, off.json()["removed_reason"]) == (200, "agreed anew")
    assert off.json()["removed_by"].startswith("key ")
    again = await plane.http.post(f"{LIST}/remove", json={"number": TO, "reason": "agreed anew"}, headers=plane.auth)
    assert (again.status_code, again.json()["code"]) == (404, "not_listed")
    assert (await plane.http.get(LIST, headers=plane.auth)).json()["items"] == []
    kept = (await plane.http.get(LIST, params={"removed": True}, headers=plane.auth)).json()["items"]
    assert [row["id"] for row in kept] == [entry["id"]]
    assert (await plane.http.get(f"/api/v1/calls/{waiting['id']}", headers=plane.auth)).json()["opted_out_at"] is None


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("", {"number": TO}, "text"),
        ("", {"number": TO, "text": " "}, "text"),
        ("", {"number": "2025550123", "text": "x"}, "number"),
        ("/remove", {"number": TO}, "reason"),
        ("/remove", {"number": TO, "reason": ""}, "reason"),
        ("/remove", {"number": TO, "reason": "x", "force": True}, "force"),
    ],
)
async def test_a_wrong_request_changes_nothing_and_names_the_field(
    plane: Plane, path: str, body: dict[str, Any], field: str
) -> None:
    await DoNotCall(plane.db, "default").add(TO, "by letter")
    response = await plane.http.post(LIST + path, json=body, headers=plane.auth)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
    assert await DoNotCall(plane.db, "default").contains(TO)


async def test_a_tenant_sees_and_changes_its_own_list_only(plane: Plane) -> None:
    await DoNotCall(plane.db, "default").add(TO, "by letter")
    other = await plane.another_key("other")
    assert (await plane.http.get(LIST, headers=other)).json()["items"] == []
    denied = await plane.http.post(f"{LIST}/remove", json={"number": TO, "reason": "x"}, headers=other)
    assert denied.status_code == 404
    assert (await plane.http.get(LIST)).status_code == 401
    assert await DoNotCall(plane.db, "default").contains(TO)


async def test_a_call_tells_that_its_callee_opted_out(plane: Plane) -> None:
    placed = await plane.place()
    await DoNotCall(plane.db, "default").opt_out(placed["id"], TO, "model", "x")
    read = (await plane.http.get(f"/api/v1/calls/{placed['id']}", headers=plane.auth)).json()
    assert datetime.fromisoformat(read["opted_out_at"]) > datetime.now(UTC) - timedelta(minutes=1)


async def test_the_time_of_the_wish_is_kept_when_it_is_written_late(db: Database) -> None:
    call, _ = await outbound(db)
    heard_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    await DoNotCall(db, "acme").opt_out(call.id, NUMBER, "key", "9", at=heard_at)
    (entry,), _ = await DoNotCall(db, "acme").list(limit=1)
    marked = await Calls(db, "acme").get(call.id)
    assert marked is not None and marked.opted_out_at == entry.created_at == heard_at
