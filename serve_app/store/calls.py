"""Calls: one row per conversation, from the wish to call somebody to the recorded end."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from serve_app.errors import ParleyError
from serve_app.store.base import new_id
from serve_app.store.call_ends import CallEnd, attempt_was_sent, end_call
from serve_app.store.do_not_call import listed
from serve_app.store.models import TERMINAL_CALL, Attempt, Call
from serve_app.store.records import insert_event
from serve_app.store.rows import AttemptRow, CallRow, RawEvent, to_row
from serve_app.store.scope import TenantScope, changed, earliest, insert_or_ignore
from serve_app.store.settlement import Verdict

_BEFORE: dict[str, tuple[str, ...]] = {
    "answered": ("queued", "dialing", "ringing"),
    "in_progress": ("queued", "dialing", "ringing", "answered"),
}


class LiveCallExists(ParleyError):  # noqa: N818  (a state of affairs, not a fault)
    """A call of this tenant to this number is live; a second one is not placed."""


class NotToBeCalled(ParleyError):  # noqa: N818  (a state of affairs, not a fault)
    """The number is on this tenant's do-not-call list."""


def is_live_call_conflict(error: IntegrityError) -> bool:
    """Whether the index `one_live` refused an attempt. PostgreSQL names the index, SQLite its columns."""
    return "one_live" in str(error.orig) or "attempts.to_number" in str(error.orig)


class Calls(TenantScope):
    async def create_outbound(
        self,
        *,
        to_number: str,
        from_number: str,
        agent_name: str,
        agent_version: int,
        metadata: dict[str, Any],
        give_up_at: datetime,
    ) -> tuple[CallRow, AttemptRow]:
        """A queued call and its intended attempt, in one transaction. Raises LiveCallExists or NotToBeCalled."""
        now = self.clock.now()
        call = self._call("outbound", "queued", now, from_number, to_number, agent_name, agent_version, metadata)
        call.give_up_at = give_up_at
        attempt = Attempt(
            id=new_id(),
            tenant_id=self.tenant_id,
            call_id=call.id,
            to_number=to_number,
            from_number=from_number,
            status="intended",
            epoch=0,
            next_at=now,
            give_up_at=give_up_at,
            created_at=now,
        )
        try:
            async with self.db.transaction() as session:
                if await session.scalar(select(listed(self.tenant_id, to_number))):
                    raise NotToBeCalled("this number is on the do-not-call list")
                session.add(call)
                await session.flush()
                session.add(attempt)
                await session.flush()
                return to_row(CallRow, call), to_row(AttemptRow, attempt)
        except IntegrityError as error:
            if is_live_call_conflict(error):
                raise LiveCallExists("a call to this number is already live") from error
            raise

    async def create_inbound(
        self,
        *,
        carrier_call_id: str,
        from_number: str,
        to_number: str,
        agent_name: str,
        agent_version: int,
        metadata: dict[str, Any],
        event: RawEvent | None = None,
    ) -> CallRow:
        """A ringing call; the same `carrier_call_id` again returns the call that is there.

        `event`, the webhook that told of it, is kept in the same transaction.
        """
        now = self.clock.now()
        values = {
            "id": new_id(),
            "tenant_id": self.tenant_id,
            "direction": "inbound",
            "status": "ringing",
            "carrier_call_id": carrier_call_id,
            "from_number": from_number,
            "to_number": to_number,
            "agent_name": agent_name,
            "agent_version": agent_version,
            "caller_metadata": metadata,
            "created_at": now,
            "updated_at": now,
        }
        async with self.db.transaction() as session:
            if event is not None:
                await insert_event(session, self.tenant_id, event)
            created = insert_or_ignore(session, Call, values).returning(Call)
            found = await session.scalar(created)
            if found is None:
                found = await session.scalar(self._query().where(Call.carrier_call_id == carrier_call_id))
            assert found is not None
            return to_row(CallRow, found)

    async def get(self, call_id: str) -> CallRow | None:
        return await self._one(Call.id == call_id)

    async def by_carrier(self, carrier_call_id: str) -> CallRow | None:
        return await self._one(Call.carrier_call_id == carrier_call_id)

    async def active(self, older_than: datetime) -> list[CallRow]:
        """Calls that are not over and whose status last changed before `older_than`, oldest change first."""
        query = self._query().where(Call.status.not_in(TERMINAL_CALL), Call.updated_at < older_than)
        async with self.db.session() as session:
            found = await session.scalars(query.order_by(Call.updated_at).limit(1000))
            return [to_row(CallRow, call) for call in found]

    async def list(
        self, *, limit: int, before: str | None = None, status: str | None = None
    ) -> tuple[list[CallRow], str | None]:
        """Newest first. The cursor for the next page is None on the last one; ids sort by creation time."""
        query = self._query().order_by(Call.id.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(Call.id < before)
        if status is not None:
            query = query.where(Call.status == status)
        async with self.db.session() as session:
            rows = [to_row(CallRow, call) for call in await session.scalars(query)]
        return rows[:limit], rows[limit - 1].id if len(rows) > limit else None

    async def answered(self, call_id: str, at: datetime) -> bool:
        """The callee picked up. A call that is already further gets the time: the earliest that was told."""
        forward = update(Call).where(*self._is(call_id), Call.status.in_(_BEFORE["answered"]))
        late = update(Call).where(*self._is(call_id))
        first = earliest(Call.answered_at, at)
        async with self.db.transaction() as session:
            if await changed(session, forward.values(status="answered", updated_at=at, answered_at=first)):
                return True
            await session.execute(late.values(answered_at=first))
            return False

    async def in_progress(self, call_id: str, at: datetime) -> bool:
        """The first media message came. Never backwards; False where nothing changed."""
        forward = update(Call).where(*self._is(call_id), Call.status.in_(_BEFORE["in_progress"]))
        async with self.db.transaction() as session:
            return bool(await changed(session, forward.values(status="in_progress", updated_at=at, started_at=at)))

    async def finish(
        self,
        call_id: str,
        *,
        status: Literal["completed", "failed"],
        outcome: str,
        detail: str | None,
        started_at: datetime | None,
        ended_at: datetime,
        duration_s: float | None,
        sample_rate_hz: int | None,
        unsent_only: bool = False,
        verdict: Verdict | None = None,
    ) -> bool:
        """End the call once. True for the first writer only; all of it is one transaction.

        `unsent_only`: False, and nothing changed, where an attempt of the call went beyond `intended`.
        `verdict`: settles the lead for whose sake the call was; None leaves that to the upkeep of leads.

        It also ends the attempt (disposition = outcome), writes the transcript from the turns, and, if media ever
        started, adds the job `mix_recording`. `started_at`, `sample_rate_hz` None: keep what the call already has.
        A call in which the callee opted out has that as its outcome, however it ended.
        """
        end = CallEnd(
            status=status,
            outcome=outcome,
            detail=detail,
            started_at=started_at,
            ended_at=ended_at,
            duration_s=duration_s,
            sample_rate_hz=sample_rate_hz,
        )
        async with self.db.transaction() as session:
            if unsent_only and await attempt_was_sent(session, self.tenant_id, call_id):
                return False
            return await end_call(session, self.tenant_id, call_id, end, verdict=verdict, now=self.clock.now())

    def _call(
        self,
        direction: str,
        status: str,
        now: datetime,
        from_number: str,
        to_number: str,
        agent_name: str,
        agent_version: int,
        metadata: dict[str, Any],
    ) -> Call:
        return Call(
            id=new_id(),
            tenant_id=self.tenant_id,
            direction=direction,
            status=status,
            from_number=from_number,
            to_number=to_number,
            agent_name=agent_name,
            agent_version=agent_version,
            caller_metadata=metadata,
            created_at=now,
            updated_at=now,
        )

    def _is(self, call_id: str) -> tuple[Any, ...]:
        return Call.tenant_id == self.tenant_id, Call.id == call_id

    def _query(self) -> Any:
        return select(Call).where(Call.tenant_id == self.tenant_id)

    async def _one(self, condition: Any) -> CallRow | None:
        async with self.db.session() as session:
            found = await session.scalar(self._query().where(condition))
            return None if found is None else to_row(CallRow, found)
