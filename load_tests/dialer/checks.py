"""What must hold at the end of a run, whatever died: from the network's own record and from SQL."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from load_tests.dialer.network import Seen, SeenCall
from serve_app.store.campaign_models import CLOSED_LEAD, Lead
from serve_app.store.db import Database
from serve_app.store.models import LIVE_ATTEMPT, ONE_LIVE, UNSETTLED, Attempt

AT_REST = frozenset({"ready", "deferred", *CLOSED_LEAD})
NEVER_RANG = "not_placed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Counts; all but the first three are to be 0."""

    leads: int
    attempts: int
    posts: int
    repeated: int
    """Requests beyond the first that one attempt had carried out."""
    unrecorded: int
    """Requests of which SQL knows no intent."""
    overlapping: int
    """Calls to a number that had a live call."""
    lost: int
    """Leads that are gone, or neither wait nor are closed."""
    open_attempts: int
    """Neither ended nor settled."""
    miscounted: int
    """Leads whose attempts are not the calls that rang or may have rung."""
    limited: int
    """Requests that the network refused for its limit."""

    @property
    def double_dials(self) -> int:
        return self.repeated + self.unrecorded + self.overlapping

    @property
    def faults(self) -> int:
        return self.double_dials + self.lost + self.open_attempts + self.miscounted


async def look(db: Database, campaign_id: str, seen: Seen, leads: int) -> Findings:
    """`leads`: how many the campaign was given; `seen`: of its numbers. Calls of the network may go on."""
    rows = select(Attempt.id, Attempt.lead_id, Attempt.status, Attempt.placing_at, Attempt.result)
    async with db.session() as session:
        found = (
            await session.execute(select(Lead.id, Lead.state, Lead.attempts).where(Lead.campaign_id == campaign_id))
        ).all()
        attempts = (await session.execute(rows.where(Attempt.campaign_id == campaign_id))).all()
    carried_out = Counter(post.attempt for post in seen.posts if post.status != 429)
    intended = {row.id for row in attempts if row.placing_at is not None}
    counted = Counter(row.lead_id for row in attempts if row.result not in (None, NEVER_RANG))
    rang = {row.lead_id for row in attempts if carried_out[row.id] and row.result == NEVER_RANG}
    return Findings(
        leads=len(found),
        attempts=len(attempts),
        posts=len(seen.posts),
        repeated=sum(count - 1 for count in carried_out.values()),
        unrecorded=len(carried_out.keys() - intended),
        overlapping=overlapping(seen.calls),
        lost=leads - len(found) + sum(row.state not in AT_REST for row in found),
        open_attempts=sum(row.status in LIVE_ATTEMPT or row.result is None for row in attempts),
        miscounted=sum(row.attempts != counted[row.id] or row.id in rang for row in found),
        limited=sum(post.status == 429 for post in seen.posts),
    )


def overlapping(calls: Sequence[SeenCall]) -> int:
    """Calls that began while another one to the same number went on."""
    of_number: dict[str, list[SeenCall]] = defaultdict(list)
    for call in calls:
        of_number[call.number].append(call)
    count = 0
    for those in of_number.values():
        over_at = 0.0
        for call in sorted(those, key=lambda one: one.started_at):
            count += call.started_at < over_at
            over_at = max(over_at, float("inf") if call.ended_at is None else call.ended_at)
    return count


def busiest_second(times: Sequence[float]) -> int:
    """The most of these moments in any second, whenever it begins."""
    ordered = sorted(times)
    return max((bisect_right(ordered, at + 1.0 - 1e-9) - n for n, at in enumerate(ordered)), default=0)


async def longest_doubt_s(db: Database, campaign_id: str, since: datetime) -> float:
    """How long it took to close the attempts of which nobody ever heard, counted from `since` at the earliest."""
    doubtful = select(Attempt.placing_at, Attempt.ended_at).where(
        Attempt.campaign_id == campaign_id, Attempt.disposition == "unknown", Attempt.placing_at.is_not(None)
    )
    async with db.session() as session:
        found = (await session.execute(doubtful)).all()
    return max(
        ((row.ended_at - max(row.placing_at, since)).total_seconds() for row in found if row.ended_at), default=0.0
    )


async def is_quiet(db: Database, campaign_id: str) -> bool:
    """No lead is leased, and no attempt lives or waits to be settled."""
    busy = [
        select(func.count()).where(Lead.campaign_id == campaign_id, Lead.state == "leased"),
        select(func.count()).where(Attempt.campaign_id == campaign_id, ONE_LIVE),
        select(func.count()).where(Attempt.campaign_id == campaign_id, UNSETTLED),
    ]
    async with db.session() as session:
        return not sum([await session.scalar(query) or 0 for query in busy])
