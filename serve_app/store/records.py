"""What a call leaves behind: turns, transcript, recording, raw events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import and_, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.clock import Clock, SystemClock
from serve_app.store.charges import book
from serve_app.store.db import Database
from serve_app.store.models import (
    Agent,
    Attempt,
    Call,
    CallEvent,
    LatencyMeasurement,
    Recording,
    Transcript,
    Turn,
)
from serve_app.store.rows import (
    AgentRow,
    AttemptRow,
    CallRow,
    Charge,
    EventContext,
    RawEvent,
    RecordingRow,
    TranscriptRow,
    TurnRow,
    to_row,
)
from serve_app.store.scope import TenantScope, changed, insert_or_ignore, upsert

# What is stored where nothing is told; the names are those of `conversation.latency.TurnLatency`.
_MEASURES = ("stt_ms", "llm_ms", "sentence_ms", "tts_ms", "frame_ms", "confirm_ms", "total_ms")
_LATENCY: dict[str, Any] = {
    **dict.fromkeys(_MEASURES),
    "within_target": None,
    "over": {},
    "causes": [],
    "speculative": False,
}


async def put_turns(db: Database, turns: Sequence[tuple[str, TurnRow]], clock: Clock | None = None) -> None:
    """Store or replace turns, each with its tenant, and their latencies where anything was measured: all or none.

    Raises sqlalchemy.exc.IntegrityError when a tenant has no such call.
    """
    now = (clock or SystemClock()).now()
    rows, measured = [], []
    for tenant_id, turn in turns:
        key = {"tenant_id": tenant_id, "call_id": turn.call_id, "turn_index": turn.index}
        rows.append(key | {name: getattr(turn, name) for name in _TURN_FIELDS})
        if turn.latency.get("causes") or any(turn.latency.get(name) is not None for name in _MEASURES):
            latency = {name: turn.latency.get(name, default) for name, default in _LATENCY.items()}
            measured.append(key | latency | {"created_at": now})
    async with db.transaction() as session:
        connection = await session.connection()
        await connection.execute(upsert(Turn, tuple(rows[0]), _TURN_KEY, db.dialect), rows)
        if measured:
            await connection.execute(upsert(LatencyMeasurement, tuple(measured[0]), _TURN_KEY, db.dialect), measured)


_TURN_KEY = ("tenant_id", "call_id", "turn_index")
_TURN_FIELDS = tuple(field.name for field in fields(TurnRow) if field.name not in ("call_id", "index", "latency"))


class Turns(TenantScope):
    async def put(
        self,
        call_id: str,
        index: int,
        role: str,
        text: str,
        heard_text: str,
        started_ms: float,
        ended_ms: float,
        approximate: bool,
        interrupted: bool,
        latency: Mapping[str, Any],
    ) -> None:
        """Store or replace one turn, as `put_turns` does."""
        turn = TurnRow(
            call_id, index, role, text, heard_text, started_ms, ended_ms, approximate, interrupted, dict(latency)
        )
        await put_turns(self.db, [(self.tenant_id, turn)], self.clock)

    async def list(self, call_id: str) -> list[TurnRow]:
        """In the order of the conversation."""
        query = (
            select(Turn, LatencyMeasurement)
            .outerjoin(
                LatencyMeasurement,
                and_(
                    LatencyMeasurement.tenant_id == Turn.tenant_id,
                    LatencyMeasurement.call_id == Turn.call_id,
                    LatencyMeasurement.turn_index == Turn.turn_index,
                ),
            )
            .where(Turn.tenant_id == self.tenant_id, Turn.call_id == call_id)
            .order_by(Turn.turn_index)
        )
        async with self.db.session() as session:
            return [_turn_row(turn, measured) for turn, measured in await session.execute(query)]


def _turn_row(turn: Turn, measured: LatencyMeasurement | None) -> TurnRow:
    return TurnRow(
        call_id=turn.call_id,
        index=turn.turn_index,
        role=turn.role,
        text=turn.text,
        heard_text=turn.heard_text,
        started_ms=turn.started_ms,
        ended_ms=turn.ended_ms,
        approximate=turn.approximate,
        interrupted=turn.interrupted,
        latency={} if measured is None else _latency(measured),
    )


def _latency(measured: LatencyMeasurement) -> dict[str, Any]:
    found = {name: getattr(measured, name) for name in _LATENCY}
    # A row that is older than a column has a null in it.
    return {name: _LATENCY[name] if value is None else value for name, value in found.items()}


async def insert_transcript(session: AsyncSession, tenant_id: str, call_id: str, at: datetime) -> None:
    """The whole conversation as text, from the turns, in the transaction that ends the call. The first one stays."""
    query = select(Turn.role, Turn.heard_text, Turn.approximate).where(
        Turn.tenant_id == tenant_id, Turn.call_id == call_id
    )
    turns = (await session.execute(query.order_by(Turn.turn_index))).all()
    # What the callee did not hear was not said.
    lines = [f"{turn.role.capitalize()}: {turn.heard_text}" for turn in turns if turn.heard_text]
    transcript = {
        "tenant_id": tenant_id,
        "call_id": call_id,
        "text": "\n".join(lines),
        "turn_count": len(turns),
        "approximate": any(turn.approximate for turn in turns),
        "created_at": at,
    }
    await session.execute(insert_or_ignore(session, Transcript, transcript))


class Transcripts(TenantScope):
    """Written by `Calls.finish`, through `insert_transcript`."""

    async def get(self, call_id: str) -> TranscriptRow | None:
        async with self.db.session() as session:
            found = await session.get(Transcript, (self.tenant_id, call_id))
            return None if found is None else to_row(TranscriptRow, found)


class Recordings(TenantScope):
    async def put(
        self,
        call_id: str,
        *,
        key: str,
        format: str,
        channels: int,
        sample_rate_hz: int,
        duration_s: float,
        bytes: int,
        peaks: list[list[float]],
    ) -> None:
        """Store or replace. Raises sqlalchemy.exc.IntegrityError when this tenant has no such call."""
        values = {
            "tenant_id": self.tenant_id,
            "call_id": call_id,
            "key": key,
            "format": format,
            "channels": channels,
            "sample_rate_hz": sample_rate_hz,
            "duration_s": duration_s,
            "bytes": bytes,
            "peaks": peaks,
            "created_at": self.clock.now(),
        }
        async with self.db.transaction() as session:
            connection = await session.connection()
            await connection.execute(
                upsert(Recording, tuple(values), ("tenant_id", "call_id"), self.db.dialect), values
            )

    async def get(self, call_id: str) -> RecordingRow | None:
        async with self.db.session() as session:
            found = await session.get(Recording, (self.tenant_id, call_id))
            return None if found is None else to_row(RecordingRow, found)


async def insert_event(session: AsyncSession, tenant_id: str, event: RawEvent) -> bool:
    """Keep a raw event in the caller's transaction. False: it was seen before, so nothing of it may be applied again.

    Together with what it changes: if that fails, a repeated delivery is not taken for a repetition.
    """
    values = {"tenant_id": tenant_id, **{name: getattr(event, name) for name in _EVENT_FIELDS}}
    return bool(await changed(session, insert_or_ignore(session, CallEvent, values)))


_EVENT_FIELDS = tuple(field.name for field in fields(RawEvent))


class Events(TenantScope):
    async def record(self, event: RawEvent, charge: Charge | None = None) -> bool:
        """`insert_event` in a transaction of its own, with the `charge` that it tells of."""
        async with self.db.transaction() as session:
            if not await insert_event(session, self.tenant_id, event):
                return False
            if charge is not None:
                await book(session, self.tenant_id, charge, now=self.clock.now())
            return True

    async def charged(self, charge: Charge) -> None:
        """An event that is kept already told of a charge."""
        async with self.db.transaction() as session:
            await book(session, self.tenant_id, charge, now=self.clock.now())

    async def of_attempt(self, dedupe_key: str, attempt_id: str) -> EventContext | None:
        """What an event about one of our attempts meets: one statement."""
        query = (
            select(Attempt, Call, Agent, self._seen(dedupe_key))
            .join(Call, and_(Call.tenant_id == Attempt.tenant_id, Call.id == Attempt.call_id))
            .outerjoin(
                Agent,
                and_(
                    Agent.tenant_id == Call.tenant_id,
                    Agent.name == Call.agent_name,
                    Agent.version == Call.agent_version,
                ),
            )
            .where(Attempt.tenant_id == self.tenant_id, Attempt.id == attempt_id)
        )
        async with self.db.session() as session:
            found = (await session.execute(query)).first()
        if found is None:
            return None
        attempt, call, agent, seen = found
        return EventContext(
            bool(seen),
            to_row(CallRow, call),
            to_row(AttemptRow, attempt),
            None if agent is None else to_row(AgentRow, agent),
        )

    async def of_carrier_call(self, dedupe_key: str, carrier_call_id: str) -> EventContext | None:
        """What an event about a call of the carrier's, which came in, meets."""
        query = select(Call, self._seen(dedupe_key)).where(
            Call.tenant_id == self.tenant_id, Call.carrier_call_id == carrier_call_id
        )
        async with self.db.session() as session:
            found = (await session.execute(query)).first()
        if found is None:
            return None
        call, seen = found
        return EventContext(bool(seen), to_row(CallRow, call))

    def _seen(self, dedupe_key: str) -> Any:
        return exists().where(CallEvent.tenant_id == self.tenant_id, CallEvent.dedupe_key == dedupe_key)
