"""Events of a carrier, folded into the record of a call: each is kept as it came, with what it changes.

The store holds no policy: a `Judge`, a pure function, says what all events of a call that are known, together, make of
it. So nothing that was derived from some of them has to be undone by hand when another comes late: it is judged anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, case, or_, outerjoin, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.call_ends import CallEnd, count_answered, end_call
from serve_app.store.charges import book
from serve_app.store.models import LIVE_CALL, TERMINAL_CALL, Attempt, Call, CallEvent
from serve_app.store.records import insert_event
from serve_app.store.rows import CallRow, Charge, RawEvent, to_row
from serve_app.store.scope import TenantScope, changed, earliest
from serve_app.store.settlement import Verdict, settle

_BEFORE: dict[str, tuple[str, ...]] = {"ringing": ("queued", "dialing"), "answered": ("queued", "dialing", "ringing")}


@dataclass(frozen=True, slots=True)
class CallState:
    """What its events make of a call that no session has."""

    outcome: str
    detail: str
    ended_at: datetime
    answered_at: datetime | None
    """None: nothing says that it was answered."""


Judge = Callable[[CallRow, Sequence[RawEvent]], CallState | None]
"""None: the call goes on, or its end is not for the events to tell."""

Folded = Literal["repeated", "moved", "ended", "corrected", "stored"]
"""What came of an event: seen before; the live call moved on; it ended; its end was corrected; nothing but its record.
"""


class CallFolding(TenantScope):
    async def reach(
        self, call_id: str, status: Literal["ringing", "answered"], at: datetime, event: RawEvent | None
    ) -> Folded:
        """A live call is ringing, or was answered, at `at`: one statement beside the event's record.

        Never backwards, and the earliest time stays. `event` None: it is kept already. "stored": the call has ended
        meanwhile, or was as far; then nothing was kept, and `fold` is to be asked.
        """
        forward = Call.status.in_(_BEFORE[status])
        now = self.clock.now()
        values: dict[Any, Any] = {
            Call.status: case((forward, status), else_=Call.status),
            Call.updated_at: case((forward, now), else_=Call.updated_at),
        }
        news: ColumnElement[bool] = forward
        if status == "answered":
            values[Call.answered_at] = earliest(Call.answered_at, at)
            news = or_(forward, Call.answered_at.is_(None), Call.answered_at > at)
        move = update(Call).where(*self._is(call_id), Call.status.in_(LIVE_CALL), news).values(values)
        async with self.db.transaction() as session:
            if event is not None and not await insert_event(session, self.tenant_id, event):
                return "repeated"
            if await changed(session, move.execution_options(synchronize_session=False)):
                return "moved"
            await session.rollback()
            return "stored"

    async def fold(
        self,
        call_id: str,
        event: RawEvent | None,
        judge: Judge,
        verdict: Verdict,
        *,
        charge: Charge | None = None,
    ) -> tuple[Folded, CallState | None]:
        """Keep the event, and make of the call what all its events together say; all of it is one transaction.

        `event` None: it is kept already. `verdict`: settles the lead for whose sake the call was, or settles it anew.
        `charge`: what the event says that the call cost. A call that has ended keeps its end unless the judge says
        otherwise. With what came of it, what the judge said.
        """
        async with self.db.transaction() as session:
            if event is not None and not await insert_event(session, self.tenant_id, event):
                return "repeated", None
            known = await self._known(session, call_id)
            if known is None:
                await session.rollback()
                return "stored", None
            call, events = known
            if charge is not None:
                # Attempt and call are locked, and then what was used: the order of the end of a call.
                await book(session, self.tenant_id, charge, now=self.clock.now())
            state = judge(call, events)
            if state is None:
                return "stored", None
            if call.over:
                return await self._correct(session, call, state, verdict), state
            end = CallEnd(
                status="failed",
                outcome=state.outcome,
                detail=state.detail,
                ended_at=state.ended_at,
                answered_at=state.answered_at,
            )
            await end_call(session, self.tenant_id, call_id, end, verdict=verdict, now=self.clock.now())
            return "ended", state

    async def _known(self, session: AsyncSession, call_id: str) -> tuple[CallRow, list[RawEvent]] | None:
        """The call and its events, which nobody else folds until the transaction is over. None: no such call."""
        if session.get_bind().dialect.name == "postgresql":
            # Attempt before call, the order in which the end of a call locks them.
            attempts = select(Attempt.id).where(Attempt.tenant_id == self.tenant_id, Attempt.call_id == call_id)
            await session.execute(attempts.order_by(Attempt.id).with_for_update())
        # By the carrier's id, or by ours: a failure of the media socket, which is a leg of its own.
        named = CallEvent.carrier_call_id.in_((Call.carrier_call_id, Call.id))
        about = and_(CallEvent.tenant_id == Call.tenant_id, named)
        query = (
            select(Call, CallEvent)
            .select_from(outerjoin(Call, CallEvent, about))
            .where(*self._is(call_id))
            .order_by(CallEvent.received_at)
            .with_for_update(of=Call)
        )
        found = (await session.execute(query)).all()
        if not found:
            return None
        return to_row(CallRow, found[0][0]), [to_row(RawEvent, event) for _, event in found if event is not None]

    async def _correct(self, session: AsyncSession, call: CallRow, state: CallState, verdict: Verdict) -> Folded:
        """The end of a call that had no conversation, told anew: its attempt follows, and with that the lead."""
        known = (call.outcome, call.detail, call.ended_at, call.answered_at)
        if known == (state.outcome, state.detail, state.ended_at, state.answered_at):
            return "stored"
        opted_out = call.opted_out_at is not None
        corrected = update(Call).where(*self._is(call.id), Call.status.in_(TERMINAL_CALL), Call.started_at.is_(None))
        outcome = "opted_out" if opted_out else state.outcome
        told = {"outcome": outcome, "detail": state.detail, "ended_at": state.ended_at}
        attempt = update(Attempt).where(
            Attempt.tenant_id == self.tenant_id, Attempt.call_id == call.id, Attempt.status == "ended"
        )
        ended = {"disposition": outcome, "detail": state.detail, "ended_at": state.ended_at, "settled_at": None}
        await session.execute(attempt.values(ended).execution_options(synchronize_session=False))
        await session.execute(
            corrected.values(told | {"answered_at": state.answered_at}).execution_options(synchronize_session=False)
        )
        if call.answered_at is None and state.answered_at is not None:
            await count_answered(session, self.tenant_id, call.id, at=call.ended_at or state.ended_at)
        await settle(session, self.tenant_id, verdict, Attempt.call_id == call.id, self.clock.now())
        return "corrected"

    def _is(self, call_id: str) -> tuple[ColumnElement[bool], ...]:
        return Call.tenant_id == self.tenant_id, Call.id == call_id
