"""Every decision about a lead is on record with its reason, and people can read it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event
from typer.testing import CliRunner

from serve_app.cli.main import app as cli
from serve_app.dialing.guarded_choice import UNDECIDED
from serve_app.dialing.lead_log import decision_of, words_for
from serve_app.store import barring
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.db import Database
from serve_app.store.do_not_call import ON_LIST
from serve_app.store.kill_switches import KillSwitches
from serve_app.store.lead_claims import BEING_CALLED, CloseLead, PutOff
from serve_app.store.lead_log import LeadLog
from serve_app.store.lead_upkeep import promote
from serve_app.store.leads import Leads
from tests.unit.api_support import Plane
from tests.unit.campaign_support import START, TENANT, campaign, claim, end, number
from tests.unit.test_api_calls import check_problem

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

HOUR = timedelta(hours=1)


async def put_off(db: Database, row: CampaignRow, hour: int, reason: str = "outside_window") -> None:
    """At START and so many hours, until an hour later."""
    now = START + hour * HOUR
    await promote(db, now, limit=10)
    claimed = await claim(db, row, lambda *_: PutOff(now + HOUR, reason), now=now)
    assert claimed.put_off == {reason: 1}


async def story(db: Database, tenant: str = TENANT) -> str:
    """A lead that is put off for two reasons, called, put off, and closed; its id."""
    row = await campaign(db, leads=[number(0)], tenant=tenant)
    for hour, reason in enumerate(("outside_window", "holiday", "outside_window")):
        await put_off(db, row, hour, reason)
    await promote(db, START + 3 * HOUR, limit=10)
    (held,) = (await claim(db, row, now=START + 3 * HOUR)).leads
    await end(db, held.call_id, "no_capacity", tenant=tenant)
    hour = 24 * 400  # the lead is due by now, whatever the retry policy said
    await put_off(db, row, hour)
    await promote(db, START + (hour + 1) * HOUR, limit=10)
    closed = await claim(db, row, lambda *_: CloseLead("barred", "no_consent"), now=START + (hour + 1) * HOUR)
    assert closed.closed == {"no_consent": 1}
    return held.lead.id


async def test_the_log_tells_decisions_and_attempts_newest_first(db: Database) -> None:
    lead_id = await story(db)
    log = LeadLog(db, TENANT)
    entries, more = await log.list(lead_id, limit=10)
    assert more is None
    assert [decision_of(entry) for entry in entries] == [
        ("deny", "no_consent"),
        ("defer", "outside_window"),
        ("allow", "allowed"),
        ("defer", "holiday"),
        ("defer", "outside_window"),
    ]
    first, call = entries[-1], entries[2]
    # Put off twice for one reason with no attempt in between: one row, which tells from when until when.
    assert first.times == 2 and (first.at, first.last_at) == (START, START + 2 * HOUR)  # type: ignore[union-attr]
    assert first.until == START + 3 * HOUR  # type: ignore[union-attr]
    assert (call.agent_name, call.agent_version) == ("front-desk", 1)  # type: ignore[union-attr]
    pages, cursor = [], None
    while True:
        page, cursor = await log.list(lead_id, limit=2, before=cursor)
        pages.append(page)
        if cursor is None:
            break
    assert [len(page) for page in pages] == [2, 2, 1] and [entry for page in pages for entry in page] == entries
    # The record outlives the lead.
    assert await Leads(db, TENANT).delete(lead_id)
    assert (await log.list(lead_id, limit=10))[0] == entries


async def test_a_claim_writes_all_its_decisions_by_one_statement(db: Database) -> None:
    row = await campaign(db, leads=[number(i) for i in range(9)])
    seen: list[bool] = []

    def keep(_connection: Any, _cursor: Any, statement: str, _parameters: Any, _context: Any, many: bool) -> None:
        if "lead_decisions" in statement:
            seen.append(many)

    event.listen(db.engine.sync_engine, "before_cursor_execute", keep)
    try:
        claimed = await claim(db, row, lambda lead, *_: PutOff(START + HOUR, "too_soon"))
        assert len((await claim(db, row)).leads) == 0
    finally:
        event.remove(db.engine.sync_engine, "before_cursor_execute", keep)
    assert claimed.put_off == {"too_soon": 9} and seen == [True]


async def test_calls_that_are_placed_need_no_row(db: Database) -> None:
    row = await campaign(db, leads=[number(0)])
    (held,) = (await claim(db, row)).leads
    (entry,), _ = await LeadLog(db, TENANT).list(held.lead.id, limit=10)
    assert entry.id == held.attempt_id


async def test_what_stopped_an_attempt_is_its_own_record(db: Database) -> None:
    row = await campaign(db, leads=[number(0)])
    (held,) = (await claim(db, row)).leads
    await KillSwitches(db, TENANT).on("number", number(0), reason="complaint", by="ann")
    attempts = Attempts(db, TENANT)
    (stopped,) = await attempts.barred(limit=9)
    assert await attempts.end(stopped.id, "not_allowed", "switched off")
    (entry,), _ = await LeadLog(db, TENANT).list(held.lead.id, limit=10)
    assert decision_of(entry) == ("deny", "kill_switch_number")


@pytest.mark.parametrize(
    "code",
    [
        *("allowed", BEING_CALLED, UNDECIDED, "too_soon", "lifetime_cap", barring.LEAD_CLOSED, barring.NOT_RUNNING),
        *(barring.TENANT_INACTIVE, barring.ON_REGISTRY, barring.CONSENT_REVOKED, ON_LIST),
    ],
)
def test_every_reason_that_is_logged_has_words(code: str) -> None:
    words = words_for(code)
    assert words is not None and words.explanation


def test_a_code_that_is_not_known_is_shown_without_words() -> None:
    assert words_for("a code of yesterday") is None


async def test_the_log_over_rest_and_on_the_command_line(
    plane: Plane, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = plane.settings.tenant
    lead_id = await story(plane.db, tenant)
    await Leads(plane.db, tenant).delete(lead_id)
    url = f"/api/v1/leads/{lead_id}/log"
    page = (await plane.http.get(url, headers=plane.auth, params={"limit": 3})).json()
    newest, deferred, called = page["items"]
    assert (newest["decision"], newest["reason"], newest["until"]) == ("deny", "no_consent", None)
    assert "consent" in newest["explanation"] and "record" in newest["remedy"]
    assert deferred["decision"] == "defer" and deferred["until"] is not None and deferred["attempt"] is None
    assert called["decision"] == "allow" and called["attempt"]["agent"] == "front-desk"
    assert (called["attempt"]["agent_version"], called["attempt"]["result"]) == (1, "not_placed")
    rest = await plane.http.get(url, headers=plane.auth, params={"cursor": page["next_cursor"]})
    assert [item["times"] for item in rest.json()["items"]] == [1, 2]
    assert rest.json()["next_cursor"] is None
    unknown = "/api/v1/leads/00000000-0000-7000-8000-000000000000/log"
    check_problem(await plane.http.get(unknown, headers=plane.auth), 404, "not_found")

    monkeypatch.setenv("PARLEY_DATABASE__URL", sqlite_url)
    shown = await asyncio.to_thread(CliRunner().invoke, cli, ["leads", "log", lead_id], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert f"{number(0)}: deleted" in shown.output and "front-desk 1" in shown.output
    assert "no_consent: no consent of the callee" in shown.output
