"""However many leads wait, nothing that dialing does every second reads a table from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event

from serve_app.dialing.flows import running_campaigns, under_way
from serve_app.dialing.settling import settle_lead
from serve_app.dialing.tenants import intended_work
from serve_app.store.attempts import Attempts
from serve_app.store.call_folding import CallFolding, CallState
from serve_app.store.callers import Callers, tenant_that_called
from serve_app.store.campaign_upkeep import complete_finished, start_scheduled
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.do_not_call import DoNotCall
from serve_app.store.lead_claims import PutOff
from serve_app.store.lead_log import LeadLog
from serve_app.store.lead_upkeep import heal, next_due, promote, settle_ended
from serve_app.store.leads import Leads, NewLead
from serve_app.store.records import Events
from serve_app.store.rows import Charge, Cost
from tests.unit.campaign_support import OWN, TENANT, campaign, claim, end, number, send

pytest_plugins = ("tests.unit.store_fixtures",)

# What grows with the leads and the calls of a platform. The others have a row per tenant, campaign or switch.
GROWING = (
    "leads",
    "attempts",
    "calls",
    "call_events",
    "turns",
    "consents",
    "do_not_call",
    "global_dnc",
    "lead_decisions",
)
# Indexes of what is in hand now, which is little however much there is: these may be read from end to end.
IN_HAND = {"ix_leads_leased", "one_live", "ix_attempts_unsettled", "ix_calls_open"}


@contextmanager
def statements(db: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is executed inside, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def keep(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        seen.append((statement, parameters[0] if many else parameters))

    event.listen(db.engine.sync_engine, "before_cursor_execute", keep)
    try:
        yield seen
    finally:
        event.remove(db.engine.sync_engine, "before_cursor_execute", keep)


async def scans(db: Database, seen: list[tuple[str, Any]]) -> list[str]:
    """The steps of SQLite's plans that read a growing table, or an index of all of it, or all of a tenant's rows."""
    found = []
    async with db.engine.connect() as connection:
        for statement, parameters in dict.fromkeys((s, tuple(p)) for s, p in seen):
            if statement.split(maxsplit=1)[0] not in ("SELECT", "UPDATE", "INSERT", "DELETE", "WITH"):
                continue
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            for *_, step in plan:
                words = step.split()
                if words[1] not in GROWING or IN_HAND.intersection(words):
                    continue
                # Of the attempts, all but those that have ended are in hand, too.
                ended = "'ended'" in statement and step.endswith("(tenant_id=? AND status=?)")
                if words[0] == "SCAN" or step.endswith("(tenant_id=?)") or ended:
                    found.append(f"{step}: {statement}")
    return found


async def test_nothing_that_dialing_does_often_reads_all_leads_or_calls(sqlite_db: Database) -> None:
    db = sqlite_db
    row = await campaign(db, leads=[number(i) for i in range(8)])
    now = datetime.now(UTC)
    with statements(db) as seen:
        await Leads(db, TENANT).add(row.id, [NewLead(number(9))])
        first, second, *_ = (await claim(db, row, limit=4)).leads
        await claim(db, row, lambda lead, facts, known: PutOff(now, "outside_window"), limit=2)
        await intended_work(db, now)
        await Attempts(db, TENANT).barred(limit=9)
        for held in (first, second):
            assert await send(db, held.attempt_id)
        await Attempts(db, TENANT).placed_at(number(0), since=now - timedelta(days=1), limit=3)
        await end(db, first.call_id, "busy")
        await end(db, second.call_id, "not_answered", settled=False)
        late = CallState("rejected", "late", now, None)
        assert (await CallFolding(db, TENANT).fold(first.call_id, None, lambda *_: late, settle_lead))[0] == "corrected"
        await Events(db, TENANT).charged(Charge(first.attempt_id, Cost(834, "EUR")))
        await Events(db, TENANT).charged(Charge(first.attempt_id, Cost(900, "EUR")))
        await settle_ended(db, settle_lead, now, limit=9)
        await heal(db, now + timedelta(days=1), limit=9)
        await promote(db, now + timedelta(days=1), limit=9)
        await next_due(db)
        await start_scheduled(db, now)
        await complete_finished(db, now)
        await DoNotCall(db, TENANT).add(number(3), "by letter")
        await Leads(db, TENANT).of_number(number(3))
        await Callers(db, TENANT).last_called(number(0), OWN)
        await Callers(db, TENANT).last_agent(number(0), OWN)
        assert await tenant_that_called(db, "unknown", OWN, number(0)) == TENANT
        await Campaigns(db, TENANT).attempts(row.id, limit=9)
        await Campaigns(db, TENANT).stats(row.id)
        await under_way(db)
        await running_campaigns(db)
        assert await Callers(db, TENANT).last_called(number(0), OWN) is not None
        assert await Callers(db, TENANT).last_agent(number(0), OWN) is not None
        assert await tenant_that_called(db, "unknown", number(0), OWN) == TENANT
        await LeadLog(db, TENANT).list(first.lead.id, limit=9)
    assert len(seen) > 60
    assert await scans(db, seen) == []


async def test_a_scan_would_be_found(sqlite_db: Database) -> None:
    await campaign(sqlite_db, leads=[number(1)])
    with statements(sqlite_db) as seen:
        async with sqlite_db.engine.connect() as connection:
            await connection.exec_driver_sql("SELECT id FROM leads WHERE caller_id = ?", (OWN,))
    (found,) = await scans(sqlite_db, seen)
    assert found.startswith("SCAN leads")
