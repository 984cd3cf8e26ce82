"""No method of any repository reads or changes another tenant's rows."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from serve_app.dialing.settling import settle_lead
from serve_app.store.base import Base
from serve_app.store.call_folding import CallState
from serve_app.store.callers import Callers
from serve_app.store.campaign_models import Import, ImportChunk, ImportRowError
from serve_app.store.campaigns import CampaignStats
from serve_app.store.db import Database
from serve_app.store.import_rows import RowResult
from serve_app.store.imports import ImportStopped
from serve_app.store.lead_claims import Claimed, PutOff
from serve_app.store.leads import NewLead
from serve_app.store.numbers import NumberHealth
from serve_app.store.repositories import (
    Agents,
    ApiKeys,
    Attempts,
    CallFolding,
    Calls,
    Campaigns,
    Charge,
    Consents,
    DoNotCall,
    Events,
    Imports,
    Jobs,
    KillSwitches,
    LeadClaims,
    LeadLog,
    Leads,
    Numbers,
    RawEvent,
    Recordings,
    Registries,
    Tenants,
    Transcripts,
    Turns,
)
from serve_app.store.rows import Cost
from serve_app.store.scope import TenantScope
from tests.unit.campaign_support import allow, campaign, claim, end
from tests.unit.store_fixtures import NUMBER, OWN_NUMBER, finish, inbound, outbound, rows_of

pytest_plugins = ("tests.unit.store_fixtures",)

OWNER, STRANGER = "acme", "globex"
NOW = datetime.now(UTC)
FUTURE = NOW + timedelta(days=1)
CALL = {"from_number": OWN_NUMBER, "agent_name": "front-desk", "agent_version": 1, "metadata": {}}
END: dict[str, Any] = {"outcome": "failed", "detail": "stolen", "started_at": NOW, "ended_at": NOW, "duration_s": 1}
RECORDING: dict[str, Any] = {"key": "k", "format": "wav", "channels": 1, "sample_rate_hz": 8000, "duration_s": 1.0}
BARRED = "+12025550177"
LEAD = "+12025550179"
EVENT = RawEvent("jti", "vonage", "answered", "carrier-1", {}, NOW)


class Victim:
    """Ids of the owner's rows."""

    live_call = over_call = live_attempt = campaign = lead = ""


FILE: dict[str, Any] = {
    "kind": "leads",
    "filename": "a.csv",
    "object_key": "k",
    "size_bytes": 1,
    "sha256": "0",
    "fingerprint": "0",
}


async def stopped(attack: Awaitable[object]) -> object:
    """None: the import is not there, or not running."""
    with suppress(ImportStopped):
        return await attack
    return None


Attack = Callable[[Any, Victim], Awaitable[object]]
# What the stranger calls with the owner's ids. A result of `NOTHING` gives nothing away;
# `own` results are rows that the stranger just made for itself.
ATTACKS: dict[type[TenantScope], dict[str, Attack]] = {
    Agents: {
        "apply": lambda r, v: r.apply("front-desk", {"mine": True}),
        "get": lambda r, v: r.get("front-desk"),
        "list": lambda r, v: r.list(),
    },
    Calls: {
        "create_outbound": lambda r, v: r.create_outbound(to_number=NUMBER, give_up_at=FUTURE, **CALL),
        "create_inbound": lambda r, v: r.create_inbound(carrier_call_id="carrier-1", to_number=NUMBER, **CALL),
        "get": lambda r, v: r.get(v.live_call),
        "by_carrier": lambda r, v: r.by_carrier("carrier-1"),
        "list": lambda r, v: r.list(limit=50),
        "active": lambda r, v: r.active(FUTURE),
        "answered": lambda r, v: r.answered(v.live_call, NOW),
        "in_progress": lambda r, v: r.in_progress(v.live_call, NOW),
        "finish": lambda r, v: r.finish(v.live_call, status="failed", sample_rate_hz=8000, **END),
    },
    CallFolding: {
        "reach": lambda r, v: r.reach(v.live_call, "answered", NOW, EVENT),
        "fold": lambda r, v: r.fold(v.over_call, EVENT, lambda *_: CallState("busy", "x", NOW, NOW), settle_lead),
    },
    Callers: {
        "lead": lambda r, v: r.lead(v.lead),
        "last_called": lambda r, v: r.last_called(LEAD, OWN_NUMBER),
        "last_agent": lambda r, v: r.last_agent(LEAD, OWN_NUMBER),
    },
    Attempts: {
        "get": lambda r, v: r.get(v.live_attempt),
        "for_call": lambda r, v: r.for_call(v.live_call),
        "placed_at": lambda r, v: r.placed_at(NUMBER, since=NOW - timedelta(days=1), limit=9),
        "live_of_call": lambda r, v: r.live_of_call(v.live_call),
        "claim_intended": lambda r, v: r.claim_intended("x", limit=50, lease_s=9, now=FUTURE),
        "barred": lambda r, v: r.barred(limit=50),
        "renew": lambda r, v: r.renew([v.live_attempt], "me", lease_s=60, now=FUTURE),
        "fence_placing": lambda r, v: r.fence_placing(v.live_attempt, 1),
        "placed": lambda r, v: r.placed(v.live_attempt, "uuid", None),
        "bind": lambda r, v: r.bind(v.live_attempt, "uuid", "https://x"),
        "unknown": lambda r, v: r.unknown(v.live_attempt, "x"),
        "release": lambda r, v: r.release(v.live_attempt, 1, NOW),
        "end": lambda r, v: r.end(v.live_attempt, "busy"),
        "stale": lambda r, v: r.stale(FUTURE),
        "report": lambda r, v: r.report(v.live_call, "wrong_number"),
    },
    Tenants: {
        "put": lambda r, v: r.put("mine", "enterprise"),
        "change": lambda r, v: r.change("enterprise", weight=9),
        "get": lambda r, v: r.get(),
    },
    Campaigns: {
        "create": lambda r, v: r.create("spring", "front-desk", calling_rules={}),
        "get": lambda r, v: r.get(v.campaign),
        "by_name": lambda r, v: r.by_name("spring"),
        "update": lambda r, v: r.update(v.campaign, goal="stolen"),
        "start": lambda r, v: r.start(v.campaign),
        "schedule": lambda r, v: r.schedule(v.campaign, FUTURE),
        "unschedule": lambda r, v: r.unschedule(v.campaign),
        "pause": lambda r, v: r.pause(v.campaign),
        "resume": lambda r, v: r.resume(v.campaign),
        "cancel": lambda r, v: r.cancel(v.campaign),
        "stats": lambda r, v: r.stats(v.campaign),
        "attempts": lambda r, v: r.attempts(v.campaign, limit=50),
        "list": lambda r, v: r.list(limit=50),
    },
    Leads: {
        "add": lambda r, v: r.add(v.campaign, [NewLead("+12015550199")]),
        "get": lambda r, v: r.get(v.lead),
        "of_number": lambda r, v: r.of_number(LEAD),
        "of_call": lambda r, v: r.of_call(v.live_call),
        "delete": lambda r, v: r.delete(v.lead),
        "reopen": lambda r, v: r.reopen(v.campaign, lead_id=v.lead),
        "scrubbed": lambda r, v: r.scrubbed(v.campaign, FUTURE),
        "list": lambda r, v: r.list(v.campaign, limit=50),
    },
    LeadClaims: {
        "claim": lambda r, v: r.claim(v.campaign, allow, owner="x", limit=50, lease_s=9, now=FUTURE),
    },
    LeadLog: {
        "list": lambda r, v: r.list(v.lead, limit=50),
    },
    Consents: {
        "record": lambda r, v: r.record(LEAD, "express", scope="*", source="web", given_at=NOW),
        "revoke": lambda r, v: r.revoke(LEAD),
        "of": lambda r, v: r.of(LEAD),
    },
    Numbers: {
        "put": lambda r, v: r.put(OWN_NUMBER, daily_cap=1),
        "get": lambda r, v: r.get(OWN_NUMBER),
        "set_state": lambda r, v: r.set_state(OWN_NUMBER, "retired", reason="stolen"),
        "health": lambda r, v: r.health(OWN_NUMBER, newest=9, short=(), human=()),
        "list": lambda r, v: r.list(),
    },
    KillSwitches: {
        "on": lambda r, v: r.on("campaign", v.campaign, reason="stolen", by="stranger"),
        "off": lambda r, v: r.off("number", LEAD, by="stranger"),
        "list": lambda r, v: r.list(lifted=True),
    },
    Registries: {
        "replace": lambda r, v: r.replace("national", []),
        "sizes": lambda r, v: r.sizes(),
    },
    Imports: {
        "create": lambda r, v: r.create(campaign_id=v.campaign, **FILE, mapping={}, options={}),
        "get": lambda r, v: r.get("import-1"),
        "with_fingerprint": lambda r, v: r.with_fingerprint("0"),
        "list": lambda r, v: r.list(limit=50),
        "begin": lambda r, v: r.begin("import-1"),
        "chunks_done": lambda r, v: r.chunks_done("import-1"),
        "commit_chunk": lambda r, v: stopped(
            r.commit_chunk(SimpleNamespace(id="import-1"), 1, RowResult([], [], 0), 1)
        ),
        "complete": lambda r, v: stopped(r.complete("import-1")),
        "fail": lambda r, v: r.fail("import-1", "stolen"),
        "cancel": lambda r, v: r.cancel("import-1"),
        "errors": lambda r, v: r.errors("import-1", limit=50),
        "forget": lambda r, v: r.forget("import-1"),
    },
    Turns: {
        "put": lambda r, v: r.put(v.live_call, 0, "agent", "x", "x", 0, 1, False, False, {"total_ms": 1}),
        "list": lambda r, v: r.list(v.over_call),
    },
    Transcripts: {"get": lambda r, v: r.get(v.over_call)},
    Recordings: {
        "put": lambda r, v: r.put(v.over_call, bytes=1, peaks=[], **RECORDING),
        "get": lambda r, v: r.get(v.over_call),
    },
    Events: {
        "record": lambda r, v: r.record(EVENT, Charge(v.live_attempt, Cost(1, "EUR"))),
        "charged": lambda r, v: r.charged(Charge(v.live_attempt, Cost(1, "EUR"))),
        "of_attempt": lambda r, v: r.of_attempt("jti", v.live_attempt),
        "of_carrier_call": lambda r, v: r.of_carrier_call("jti", "carrier-1"),
    },
    DoNotCall: {
        "opt_out": lambda r, v: r.opt_out(v.live_call, BARRED, "key", "9"),
        "add": lambda r, v: r.add(BARRED, "mine"),
        "remove": lambda r, v: r.remove(BARRED, reason="call them", by="stranger"),
        "contains": lambda r, v: r.contains(BARRED),
        "list": lambda r, v: r.list(limit=50, removed=True),
    },
    ApiKeys: {
        "create": lambda r, v: r.create("mine"),
        "any": lambda r, v: r.any(),
    },
}
OWN = {
    (Tenants, "put"),
    (Tenants, "change"),
    (Campaigns, "create"),
    (Consents, "record"),
    (KillSwitches, "on"),
    (Imports, "create"),
    (Agents, "apply"),
    (Calls, "create_outbound"),
    (Calls, "create_inbound"),
    (Events, "record"),
    (DoNotCall, "opt_out"),
    (DoNotCall, "add"),
    (ApiKeys, "create"),
}
REFUSED = {(Turns, "put"), (Recordings, "put"), (Leads, "add"), (Numbers, "put")}
NOTHING: tuple[object, ...] = (
    *(None, False, [], set(), (), {}, ([], None), (0, 0), "stored", ("stored", None)),
    CampaignStats({}, 0, {}, 0, 0.0),
    Claimed(halted="campaign_not_running"),
    NumberHealth(OWN_NUMBER, 0, 0, 0),
)
# Finds the tenant itself: that is its purpose.
ACROSS = {(ApiKeys, "verify")}


async def populate_campaign(db: Database, victim: Victim) -> None:
    await Tenants(db, OWNER).put("Acme", "basic")
    row = await campaign(db, leads=[LEAD], tenant=OWNER)
    (held,) = (await claim(db, row)).leads
    victim.campaign, victim.lead = row.id, held.lead.id
    await Leads(db, OWNER).add(row.id, [NewLead("+12025550180")])
    await claim(db, row, lambda *_: PutOff(FUTURE, "outside_window"))
    await end(db, held.call_id, "no_capacity", tenant=OWNER)
    await Consents(db, OWNER).record(LEAD, "express", scope="*", source="web", given_at=NOW)
    await Numbers(db, OWNER).put(OWN_NUMBER)
    await KillSwitches(db, OWNER).on("number", LEAD, reason="complaint", by="ann")
    await Registries(db, OWNER).replace("national", [LEAD])
    documents: dict[str, Any] = {"mapping": {}, "options": {}, "counts": {}}
    key = {"tenant_id": OWNER, "import_id": "import-1"}
    times = {"created_at": NOW, "updated_at": NOW}
    async with db.transaction() as session:
        session.add(Import(id="import-1", tenant_id=OWNER, status="running", **times, **FILE, **documents))
        await session.flush()
        session.add(ImportChunk(chunk_no=0, counts={}, committed_at=NOW, **key))
        session.add(ImportRowError(row_no=2, column_name="phone", code="invalid", value="x", **key))


async def populate(db: Database) -> Victim:
    victim = Victim()
    await Agents(db, OWNER).apply("front-desk", {"a": 1})
    call, attempt = await outbound(db, OWNER)
    await Attempts(db, OWNER).claim_intended("me", limit=1, lease_s=1, now=datetime.now(UTC))
    over = await inbound(db, OWNER)
    await Turns(db, OWNER).put(over.id, 0, "agent", "Hello", "Hello", 0, 1, False, False, {"total_ms": 1})
    await finish(db, over)
    await Recordings(db, OWNER).put(over.id, bytes=1, peaks=[], **RECORDING)
    await Events(db, OWNER).record(EVENT)
    await ApiKeys(db, OWNER).create("first")
    await DoNotCall(db, OWNER).add(BARRED, "by letter")
    await outbound(db, OWNER, number="+12025550178")
    await DoNotCall(db, OWNER).add("+12025550178", "by letter")
    await populate_campaign(db, victim)
    victim.live_call, victim.live_attempt, victim.over_call = call.id, attempt.id, over.id
    return victim


def repositories() -> list[type[TenantScope]]:
    return TenantScope.__subclasses__()


def public_methods(repository: type) -> list[str]:
    return [
        name
        for name, member in inspect.getmembers(repository, inspect.isfunction)
        if not name.startswith("_") and inspect.iscoroutinefunction(member)
    ]


def test_every_method_of_every_repository_is_attacked() -> None:
    methods = {(r, name) for r in repositories() for name in public_methods(r)}
    attacked = {(r, name) for r, attacks in ATTACKS.items() for name in attacks}
    assert methods == attacked | ACROSS


@pytest.mark.parametrize("repository", list(ATTACKS), ids=lambda r: r.__name__)
async def test_a_stranger_sees_and_changes_nothing(db: Database, repository: type[TenantScope]) -> None:
    victim = await populate(db)
    before = await rows_of(db, OWNER)
    assert {row[0] for row in before} == set(Base.metadata.tables)
    for name, attack in ATTACKS[repository].items():
        stranger = repository(db, STRANGER)
        if (repository, name) in REFUSED:
            with pytest.raises((IntegrityError, LookupError)):
                await attack(stranger, victim)
        elif (repository, name) in OWN:
            await attack(stranger, victim)
        else:
            # A fresh tenant, so that rows which the stranger made do not count.
            result = await attack(repository(db, "initech"), victim)
            assert result in NOTHING, name
        assert await rows_of(db, OWNER) == before, name


async def test_a_job_carries_the_tenant_of_its_call(db: Database) -> None:
    await populate(db)
    leased = await Jobs(db).lease("w", kinds=["mix_recording"], limit=10, lease_s=9)
    assert [job.tenant_id for job in leased] == [OWNER]


def test_a_repository_without_a_tenant_is_refused() -> None:
    with pytest.raises(ValueError, match="tenant"):
        Calls(None, "")  # type: ignore[arg-type]
