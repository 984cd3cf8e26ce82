"""Attempts to place a call: intended -> placing -> placed | unknown -> ended.

A live attempt (all but `ended`) holds its number: the index `one_live` lets no second one in. Every change is a
conditional update, so that two dialers, a late webhook and a reconciler can act at once without harm.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ScalarSelect, case, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from serve_app.store.barring import barred_by, is_barred
from serve_app.store.campaign_models import Campaign, Tenant
from serve_app.store.do_not_call import wait_for_listing
from serve_app.store.models import LIVE_ATTEMPT, LIVE_CALL, Attempt, Call
from serve_app.store.records import insert_event
from serve_app.store.rows import AttemptRow, ClaimRow, RawEvent, to_row
from serve_app.store.scope import TenantScope, changed, earliest
from serve_app.store.settlement import Verdict, settle

T = TypeVar("T")

NEVER_ASKED = ("not_allowed", "no_capacity", "not_placed")
"""Dispositions of attempts that were no call: ended without a request, or the network proved that it took none."""
# An attempt that is older than this when it is placed does not exist: it bounds what the index is read for.
_LONGEST_QUEUE = timedelta(days=1)


class Attempts(TenantScope):
    async def get(self, attempt_id: str) -> AttemptRow | None:
        async with self.db.session() as session:
            found = await session.scalar(select(Attempt).where(*self._is(attempt_id)))
            return None if found is None else to_row(AttemptRow, found)

    async def for_call(self, call_id: str) -> list[AttemptRow]:
        """The attempts of a call, oldest first."""
        query = select(Attempt).where(Attempt.tenant_id == self.tenant_id, Attempt.call_id == call_id)
        async with self.db.session() as session:
            return [to_row(AttemptRow, a) for a in await session.scalars(query.order_by(Attempt.id))]

    async def placed_at(self, number: str, *, since: datetime, limit: int) -> list[datetime]:
        """When calls to a number were asked of the network, newest first; also those whose outcome is not known."""
        query = select(Attempt.placing_at).where(
            Attempt.tenant_id == self.tenant_id,
            Attempt.to_number == number,
            Attempt.created_at > since - _LONGEST_QUEUE,
            Attempt.placing_at > since,
            or_(Attempt.disposition.is_(None), Attempt.disposition.not_in(NEVER_ASKED)),
        )
        async with self.db.session() as session:
            found = await session.scalars(query.order_by(Attempt.placing_at.desc()).limit(limit))
            return [at for at in found if at is not None]

    async def live_of_call(self, call_id: str) -> AttemptRow | None:
        """The attempt of a call that has not ended."""
        return next((a for a in reversed(await self.for_call(call_id)) if a.status in LIVE_ATTEMPT), None)

    async def claim_intended(self, owner: str, *, limit: int, lease_s: float, now: datetime) -> list[ClaimRow]:
        """Lease due attempts that nobody holds: epoch + 1. Of two concurrent owners one gets each attempt.

        In the order in which they are due. What is barred is not claimed (`barred` tells of it).
        """
        due = (
            select(Attempt.id)
            .where(
                Attempt.tenant_id == self.tenant_id,
                Attempt.status == "intended",
                Attempt.next_at <= now,
                or_(Attempt.lease_until.is_(None), Attempt.lease_until <= now),
                barred_by().is_(None),
            )
            .order_by(Attempt.next_at, Attempt.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        # SQLite is given RETURNING without the names of tables: `tenant_id` would be the inner table's on both sides.
        campaign_most = (
            select(Campaign.max_concurrent)
            .where(Campaign.tenant_id == self.tenant_id, Campaign.id == Attempt.campaign_id)
            .correlate(Attempt)
        )
        claim = (
            update(Attempt)
            .where(Attempt.tenant_id == self.tenant_id, Attempt.id.in_(select(due.c.id)), Attempt.status == "intended")
            .values(epoch=Attempt.epoch + 1, lease_owner=owner, lease_until=now + timedelta(seconds=lease_s))
            .returning(
                Attempt,
                of_its_call(Call.agent_name),
                of_its_call(Call.agent_version),
                select(Tenant.plan).where(Tenant.tenant_id == self.tenant_id).scalar_subquery(),
                select(Tenant.max_concurrent).where(Tenant.tenant_id == self.tenant_id).scalar_subquery(),
                campaign_most.scalar_subquery(),
            )
            .execution_options(synchronize_session=False)
        )
        async with self.db.transaction() as session:
            claimed = [
                ClaimRow(
                    **asdict(to_row(AttemptRow, attempt)),
                    agent_name=name,
                    agent_version=version,
                    tenant_plan=plan,
                    tenant_most=tenant_most,
                    campaign_most=of_campaign,
                )
                for attempt, name, version, plan, tenant_most, of_campaign in await session.execute(claim)
            ]
        return sorted(claimed, key=lambda row: (row.next_at, row.id))

    async def barred(self, *, limit: int) -> list[AttemptRow]:
        """Intended attempts that are not to be placed, whoever holds them: they are to be ended.

        `rules_reason` says why: a listed number, a kill switch, a campaign that does not run, a lead that is closed.
        """
        some = select(Attempt.id).where(Attempt.tenant_id == self.tenant_id, Attempt.status == "intended", is_barred())
        stopped = update(Attempt).where(
            Attempt.tenant_id == self.tenant_id,
            Attempt.id.in_(some.order_by(Attempt.id).limit(limit)),
            Attempt.status == "intended",
        )
        told = stopped.values(rules_reason=func.coalesce(barred_by(), Attempt.rules_reason)).returning(Attempt)
        async with self.db.transaction() as session:
            found = await session.scalars(told.execution_options(synchronize_session=False))
            return sorted((to_row(AttemptRow, a) for a in found), key=lambda row: row.id)

    async def renew(self, attempt_ids: Collection[str], owner: str, *, lease_s: float, now: datetime) -> set[str]:
        """Hold claims of `owner` on for `lease_s`, and return which of them it still has."""
        keep = update(Attempt).where(
            Attempt.tenant_id == self.tenant_id,
            Attempt.id.in_(attempt_ids),
            Attempt.status == "intended",
            Attempt.lease_owner == owner,
        )
        held = keep.values(lease_until=now + timedelta(seconds=lease_s)).returning(Attempt.id)
        async with self.db.transaction() as session:
            return set(await session.scalars(held.execution_options(synchronize_session=False)))

    async def fence_placing(self, attempt_id: str, epoch: int) -> bool:
        """The point of no return before the one create-call request. False: do not send it.

        The claim is lost, or something bars the attempt by now.
        """
        now = self.clock.now()
        fence = update(Attempt).where(*self._is(attempt_id), Attempt.epoch == epoch, Attempt.status == "intended")
        fence = fence.where(barred_by().is_(None))
        async with self.db.transaction() as session:
            await wait_for_listing(session, self.tenant_id, attempt_id)
            if not await changed(session, fence.values(status="placing", placing_at=now)):
                return False
            await self._mirror(session, attempt_id, status="dialing")
            return True

    async def placed(self, attempt_id: str, carrier_call_id: str, conversation_id: str | None) -> bool:
        """The network took the call. False: the attempt was ended meanwhile, so hang that call up."""
        return await self._bind(attempt_id, carrier_call_id, {"conversation_id": conversation_id}, {})

    async def bind(
        self,
        attempt_id: str,
        carrier_call_id: str,
        region_url: str | None = None,
        *,
        answered_at: datetime | None = None,
        event: RawEvent | None = None,
    ) -> bool:
        """A webhook names the carrier's call, which heals a lost response. False: ended, or bound to another call.

        `answered_at`: and it says that the callee picked up. `event`, the webhook, is kept in the same transaction.
        """
        extra = {"region_url": region_url} if region_url else {}
        return await self._bind(attempt_id, carrier_call_id, extra, extra, answered_at=answered_at, event=event)

    async def unknown(self, attempt_id: str, reason: str, *, check_after_s: float = 15) -> bool:
        """Nobody knows whether the network took the call; `stale` returns it after `check_after_s`.

        May be repeated to postpone the next check. False: the attempt is placed or ended.
        """
        until = self.clock.now() + timedelta(seconds=check_after_s)
        doubt = update(Attempt).where(*self._is(attempt_id), Attempt.status.in_(("placing", "unknown")))
        async with self.db.transaction() as session:
            return bool(await changed(session, doubt.values(status="unknown", detail=reason, lease_until=until)))

    async def release(self, attempt_id: str, epoch: int, retry_at: datetime) -> bool:
        """Back to `intended`, free to claim at `retry_at`: nothing was sent, or it was proven not placed (429)."""
        back = update(Attempt).where(
            *self._is(attempt_id), Attempt.epoch == epoch, Attempt.status.in_(("intended", "placing"))
        )
        values = {"status": "intended", "next_at": retry_at, "placing_at": None, "lease_owner": None}
        async with self.db.transaction() as session:
            if not await changed(session, back.values(lease_until=None, **values)):
                return False
            await self._mirror(session, attempt_id, status="queued")
            return True

    async def end(
        self,
        attempt_id: str,
        disposition: str,
        detail: str | None = None,
        *,
        only_from: tuple[str, ...] = LIVE_ATTEMPT,
    ) -> bool:
        """Record the disposition and free the number.

        False: it had ended before and keeps its disposition, or it is in none of the statuses `only_from`.
        """
        over = update(Attempt).where(*self._is(attempt_id), Attempt.status.in_(only_from))
        values = {"disposition": disposition, "detail": detail, "ended_at": self.clock.now()}
        async with self.db.transaction() as session:
            return bool(await changed(session, over.values(status="ended", **values)))

    async def report(
        self,
        call_id: str,
        result: str,
        *,
        callback_at: datetime | None = None,
        unless_told: bool = False,
        verdict: Verdict | None = None,
    ) -> bool:
        """What came of a call, as the conversation tells, or a person later: it decides what becomes of the lead.

        `result`: one of `dialing.dispositions.REPORTABLE`; the last report stays. After the end of the call `verdict`
        settles it anew, in the same transaction; without one, the upkeep of leads does. `unless_told`: what was
        reported before stays. False: the call has no attempt, or that.
        """
        mine = update(Attempt).where(Attempt.tenant_id == self.tenant_id, Attempt.call_id == call_id)
        if unless_told:
            mine = mine.where(Attempt.reported.is_(None))
        async with self.db.transaction() as session:
            told = mine.values(reported=result, callback_at=callback_at, settled_at=None)
            if not await changed(session, told.execution_options(synchronize_session=False)):
                return False
            if verdict is not None:
                await settle(session, self.tenant_id, verdict, Attempt.call_id == call_id, self.clock.now())
            return True

    async def stale(self, now: datetime) -> list[AttemptRow]:
        """Attempts in `placing` or `unknown` whose time is up: to be looked up at the network."""
        query = select(Attempt).where(
            Attempt.tenant_id == self.tenant_id,
            Attempt.status.in_(("placing", "unknown")),
            or_(Attempt.lease_until.is_(None), Attempt.lease_until <= now),
        )
        async with self.db.session() as session:
            return [to_row(AttemptRow, a) for a in await session.scalars(query.order_by(Attempt.id).limit(500))]

    def _is(self, attempt_id: str) -> tuple[Any, ...]:
        return (Attempt.tenant_id == self.tenant_id, Attempt.id == attempt_id)

    async def _bind(
        self,
        attempt_id: str,
        carrier_call_id: str,
        attempt_extra: dict[str, Any],
        call_extra: dict[str, Any],
        *,
        answered_at: datetime | None = None,
        event: RawEvent | None = None,
    ) -> bool:
        now = self.clock.now()
        bind = update(Attempt).where(
            *self._is(attempt_id),
            # `intended` too: a webhook of a call that a 429 claimed not to exist must stop the next POST.
            Attempt.status.in_(LIVE_ATTEMPT),
            or_(Attempt.carrier_call_id.is_(None), Attempt.carrier_call_id == carrier_call_id),
        )
        values = {"status": "placed", "carrier_call_id": carrier_call_id, "placed_at": now, **attempt_extra}
        mirrored = {"carrier_call_id": carrier_call_id, **call_extra}
        if answered_at is None:
            mirrored["status"] = case((Call.status == "queued", "dialing"), else_=Call.status)
        else:
            mirrored["status"] = case((Call.status == "in_progress", Call.status), else_="answered")
            mirrored["answered_at"] = earliest(Call.answered_at, answered_at)
        async with self.db.transaction() as session:
            if event is not None:
                await insert_event(session, self.tenant_id, event)
            if not await changed(session, bind.values(values)):
                return False
            await self._mirror(session, attempt_id, LIVE_CALL, **mirrored)
            return True

    async def _mirror(
        self, session: AsyncSession, attempt_id: str, only_from: tuple[str, ...] = ("queued", "dialing"), **values: Any
    ) -> None:
        """Copy what people see to the attempt's call. Statuses that are ahead of dialing stay."""
        call_id = select(Attempt.call_id).where(*self._is(attempt_id)).scalar_subquery()
        mirrored = update(Call).where(Call.tenant_id == self.tenant_id, Call.id == call_id, Call.status.in_(only_from))
        await session.execute(
            mirrored.values(updated_at=self.clock.now(), **values).execution_options(synchronize_session=False)
        )


def of_its_call(column: InstrumentedAttribute[T]) -> ScalarSelect[T]:
    """A column of the attempt's call, in the same statement."""
    own = select(column).where(Call.tenant_id == Attempt.tenant_id, Call.id == Attempt.call_id)
    return own.correlate(Attempt).scalar_subquery()
