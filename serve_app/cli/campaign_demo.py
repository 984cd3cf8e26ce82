"""`parley demo --campaign`: a campaign of 200 leads from nothing to its report, in minutes.

It starts a platform of its own in a folder of its own, imports the shipped file as `parley leads import` does, and
calls by a clock that begins on a Monday morning. Then it holds what the network saw against what must never happen.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from serve_app.cli.campaign_audit import (
    NetworkCall,
    double_dials,
    illegal_minutes,
    network_calls,
    place,
    unknown_calls,
)
from serve_app.cli.campaign_demo_file import DemoFile, surroundings
from serve_app.cli.client import ApiClient, ApiError, SimulatorClient, api_key
from serve_app.cli.common import with_database
from serve_app.cli.importing import import_file, options_of
from serve_app.cli.platform import Platform
from serve_app.dialing.campaign_clock import CampaignTime
from serve_app.dialing.rules import Reason, shipped
from serve_app.store.campaign_rows import ImportRow, LeadRow
from serve_app.store.campaigns import Campaigns
from serve_app.store.db import Database
from serve_app.store.repositories import AttemptRow, DoNotCall, Leads
from serve_app.store.tenants import Tenants

POLL_S = 1.0
QUIET_S = 150.0
"""After the pause: the longest conversation; or a call whose last webhook was lost, until the reconciler asks."""
TELL_EVERY = timedelta(minutes=15)
PAGE = 500
OPEN = ("ready", "leased", "deferred")
OPT_OUTS = ("key", "phrase", "model")

Show = Callable[[str], None]
Moment = tuple[str, str]
"""A reason, and where: one zone, or how many."""


@dataclass(slots=True)
class PutOff:
    """Who was not called yet, or not at all, for a reason in a zone."""

    leads: set[str] = field(default_factory=set)
    until: datetime | None = None
    """By the campaign's clock: the first moment at which one of them is due. None: they are closed."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """All that the report is made of. Times with `shown` in their name are by the campaign's clock."""

    demo: DemoFile
    whole_file: bool
    imported: ImportRow
    time: CampaignTime
    real_s: float
    stats: dict[str, Any]
    leads: Sequence[LeadRow]
    attempts: Sequence[AttemptRow]
    calls: Sequence[NetworkCall]
    throttled: int
    webhook_faults: dict[str, int]
    seen: dict[Moment, PutOff]
    opted_out: Sequence[str]
    illegal: int

    @property
    def double_dials(self) -> int:
        return double_dials(self.calls)

    @property
    def unknown_calls(self) -> int:
        return unknown_calls(self.calls, {a.carrier_call_id for a in self.attempts if a.carrier_call_id is not None})

    @property
    def answered(self) -> int:
        return sum(call.answered_at is not None for call in self.calls)

    @property
    def problems(self) -> list[str]:
        """What did not go as it should; empty: everything did."""
        expect, counts, told = self.demo.expect, self.imported.counts, []
        refused = sum(counts["refused"].values())
        if counts["accepted"] + refused + counts["blank"] != counts["rows"]:
            told.append("the rows of the file do not add up")
        if len(self.leads) != counts["accepted"]:
            told.append(f"{counts['accepted']} leads were imported and {len(self.leads)} are there")
        if stuck := [lead for lead in self.leads if lead.state == "leased"]:
            told.append(f"{len(stuck)} leads wait for an attempt that has ended")
        must_not = {
            "double dials": self.double_dials,
            "calls at forbidden minutes": self.illegal,
            "calls that no attempt knows": self.unknown_calls,
            "attempts that have not ended": sum(attempt.status != "ended" for attempt in self.attempts),
        }
        told += [f"{count} {what}" for what, count in must_not.items() if count]
        if not self.calls:
            told.append("nobody was called")
        if self.whole_file:
            if (counts["accepted"], refused) != (expect.accepted, expect.refused):
                told.append(f"{counts['accepted']} rows accepted and {refused} refused")
            if len(self.opted_out) < expect.opt_outs:
                told.append(f"{len(self.opted_out)} opt-outs, expected at least {expect.opt_outs}")
            if len(self.calls) < expect.calls:
                told.append(f"{len(self.calls)} calls, expected at least {expect.calls}")
        return told


def run_campaign_demo(*, leads: int | None, hours: float | None, show: Show) -> DemoResult:
    """From nothing to the result; what it started is stopped, and its folder deleted unless something failed.

    `leads`: only the first ones of the file. `hours`: by the campaign's clock. Raises ParleyError.
    """
    demo = DemoFile.shipped()
    if hours is not None:
        demo = demo.model_copy(update={"hours": hours})
    folder = Path(tempfile.mkdtemp(prefix="parley-demo-"))
    kept = False
    try:
        with surroundings(demo, folder):
            show("starting a platform of its own (Ray, six deployments, local services, all providers simulated)")
            platform = Platform(port=None, show=show)
            try:
                health = platform.start()
                file = _first(demo.leads, leads, folder) if leads is not None else demo.leads
                simulators = health["runtime"]["simulators_url"]
                result = asyncio.run(_run(demo, platform.url, simulators, file, leads is None, show))
            finally:
                show("stopping the platform")
                platform.stop()
        kept = bool(result.problems)
        return result
    except Exception:
        kept = True
        raise
    finally:
        if kept:
            show(f"its data and logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _first(file: Path, leads: int, folder: Path) -> Path:
    target = folder / f"first-{leads}-{file.name}"
    with file.open(encoding="utf-8") as lines:
        target.write_text("".join(islice(lines, leads + 1)), encoding="utf-8")
    return target


async def _run(demo: DemoFile, url: str, simulators: str, file: Path, whole_file: bool, show: Show) -> DemoResult:
    async def work(db: Database, tenant: str) -> DemoResult:
        async with ApiClient(url, await api_key()) as api, SimulatorClient(simulators) as network:
            campaign_id = await _prepare(demo, api, network, db, tenant)
            options = options_of(None, demo.region, None, None, None)
            imported = await import_file(db, tenant, file, "leads", options, campaign_id=campaign_id)
            show(f"imported {imported.counts['accepted']} leads from {imported.counts['rows']} rows")
            path = f"/api/v1/campaigns/{campaign_id}"
            started_at = datetime.fromisoformat((await api.post(f"{path}/start"))["campaign"]["started_at"])
            watch = _Watch(demo, demo.clock.since(started_at), show)
            await watch.until_over(db, tenant, campaign_id)
            real_s = (datetime.now(UTC) - started_at).total_seconds()
            await _pause(api, path)
            await watch.until_quiet(db, tenant, campaign_id)
            leads = await _leads(db, tenant, campaign_id)
            record = await network.calls()
            calls = network_calls(record["calls"])
            listed, _ = await DoNotCall(db, tenant).list(limit=PAGE)
            rules, by_number = demo.campaign.calling_rules, {lead.number: lead for lead in leads}
            return DemoResult(
                demo=demo,
                whole_file=whole_file,
                imported=imported,
                time=watch.time,
                real_s=real_s,
                stats=await api.get(f"{path}/stats"),
                leads=leads,
                attempts=await _attempts(db, tenant, campaign_id),
                calls=calls,
                throttled=record["throttled"],
                webhook_faults=await network.webhook_faults(),
                seen=watch.seen,
                opted_out=[row.number for row in listed if row.source in OPT_OUTS],
                illegal=illegal_minutes(calls, by_number, rules, shipped(), watch.time),
            )

    return await with_database(work)


async def _prepare(demo: DemoFile, api: ApiClient, network: SimulatorClient, db: Database, tenant: str) -> str:
    """The network, the tenant, its do-not-call list and the campaign, whose id it returns."""
    await network.set_conduct(dict(demo.network))
    for number, behaviour in demo.callees.items():
        await network.set_callee(number, dict(behaviour))
    await Tenants(db, tenant).put("Riverside Dental", demo.plan)
    for number in demo.do_not_call:
        await api.post("/api/v1/do-not-call", {"number": number, "text": "asked by letter"})
    created = await api.post("/api/v1/campaigns", demo.campaign.model_dump(mode="json", exclude_unset=True))
    return str(created["id"])


async def _pause(api: ApiClient, path: str) -> None:
    try:
        await api.post(f"{path}/pause")
    except ApiError:
        # A campaign that has nobody left to call has ended by itself.
        if (await api.get(path))["status"] != "completed":
            raise


class _Watch:
    """Looks at the campaign once a second: who is put off or closed, and for what."""

    def __init__(self, demo: DemoFile, campaign_time: CampaignTime, show: Show) -> None:
        self.time = campaign_time
        self.seen: dict[Moment, PutOff] = defaultdict(PutOff)
        self._clock = demo.clock
        self._show = show
        self._over = demo.clock.begins + timedelta(hours=demo.hours)
        self._tell_at = demo.clock.begins

    async def until_over(self, db: Database, tenant: str, campaign_id: str) -> None:
        """Until the hours are over, or nobody is left who is due in them."""
        while (now := self.time.shows(datetime.now(UTC))) < self._over:
            leads = await self._look(db, tenant, campaign_id)
            if now >= self._tell_at:
                live = (await Campaigns(db, tenant).stats(campaign_id)).live
                self._tell(now, leads, live)
                self._tell_at += TELL_EVERY
            waiting = [lead for lead in leads if lead.state in OPEN]
            if all(lead.state == "deferred" and self.time.shows(lead.next_at) > self._over for lead in waiting):
                return
            await asyncio.sleep(POLL_S)

    async def until_quiet(self, db: Database, tenant: str, campaign_id: str) -> None:
        """Until the last call has ended and its lead is settled, for a bounded time."""
        until = time.monotonic() + QUIET_S
        while time.monotonic() < until:
            # Who opts out is barred at once, while the call still says goodbye.
            settled = all(lead.state != "leased" for lead in await self._look(db, tenant, campaign_id))
            if settled and not (await Campaigns(db, tenant).stats(campaign_id)).live:
                return
            await asyncio.sleep(POLL_S)

    async def _look(self, db: Database, tenant: str, campaign_id: str) -> list[LeadRow]:
        leads = await _leads(db, tenant, campaign_id)
        for lead in leads:
            # Some results have the name of a reason: then the lead was called.
            ruled = lead.last_reason in list(Reason) and lead.last_reason != lead.last_result
            if not ruled or lead.state in ("ready", "leased"):
                continue
            put_off = self.seen[(str(lead.last_reason), place(lead))]
            put_off.leads.add(lead.id)
            if lead.state == "deferred":
                due = self.time.shows(lead.next_at)
                put_off.until = due if put_off.until is None else min(put_off.until, due)
        return leads

    def _tell(self, now: datetime, leads: Sequence[LeadRow], live: int) -> None:
        called = sum(lead.attempts > 0 for lead in leads)
        states = {state: sum(lead.state == state for lead in leads) for state in ("ready", "deferred")}
        closed = sum(lead.state not in OPEN for lead in leads)
        self._show(
            f"{self._clock.told(now):%a %H:%M}  {called} called, {live} live, {states['ready']} ready, "
            f"{states['deferred']} deferred, {closed} closed"
        )


async def _leads(db: Database, tenant: str, campaign_id: str) -> list[LeadRow]:
    found, after = await Leads(db, tenant).list(campaign_id, limit=PAGE)
    while after is not None:
        more, after = await Leads(db, tenant).list(campaign_id, limit=PAGE, after=after)
        found += more
    return found


async def _attempts(db: Database, tenant: str, campaign_id: str) -> Sequence[AttemptRow]:
    found, before = await Campaigns(db, tenant).attempts(campaign_id, limit=PAGE)
    while before is not None:
        more, before = await Campaigns(db, tenant).attempts(campaign_id, limit=PAGE, before=before)
        found += more
    return found
