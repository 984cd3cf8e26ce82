"""The rows that a chunk of an import writes: values straight to the driver, thousands in one statement.

SQLAlchemy's own executemany costs 25 us a row in the event loop's thread, this 5.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from random import getrandbits
from typing import Any, cast

from sqlalchemy import Dialect, Table, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from serve_app.store.among import among
from serve_app.store.base import Base, UtcDateTime, new_id
from serve_app.store.campaign_models import KEPT_LEAD, OPEN_LEAD, Campaign, Consent, ImportRowError, Lead
from serve_app.store.campaign_rows import ImportRow
from serve_app.store.campaign_upkeep import run_again
from serve_app.store.do_not_call import ON_LIST
from serve_app.store.import_rows import LeadValues, RowFault
from serve_app.store.models import DoNotCallEntry
from serve_app.store.queue_order import queue_at

_Stamp = Callable[[datetime], Any]
SQLITE_CACHE_KB = 48 << 10
EVERY_PURPOSE = "*"
"""Scope of a consent that a file tells: it names none."""


async def write_leads(
    session: AsyncSession, row: ImportRow, leads: Sequence[LeadValues], now: datetime
) -> list[RowFault]:
    """Add the leads, ready at once; those whose number has a lead in the campaign are returned instead.

    A campaign that is completed runs again.
    """
    dialect = session.get_bind().dialect
    # As in `leads.insert_leads`: nothing comes between the question and the insert.
    campaign = select(Campaign.id, Campaign.status).where(
        Campaign.tenant_id == row.tenant_id, Campaign.id == row.campaign_id
    )
    campaign_id, status = (await session.execute(campaign.with_for_update())).one()
    there = select(Lead.number, Lead.import_id).where(
        Lead.tenant_id == row.tenant_id,
        Lead.campaign_id == row.campaign_id,
        among(dialect.name, Lead.number, [lead.number for lead in leads]),
        KEPT_LEAD,  # names the index one_lead
    )
    known = {found.number: found.import_id for found in await session.execute(there)}
    new, duplicates = _divided(row, leads, known)
    if new and status == "completed":
        await run_again(session, row.tenant_id, [campaign_id], now)
    await _insert(session, Lead, _lead_rows(row, new, now, dialect))
    await _insert(session, Consent, _consent_rows(row, new, now, dialect))
    return duplicates


async def write_listings(
    session: AsyncSession, row: ImportRow, numbers: Sequence[LeadValues], now: datetime
) -> list[RowFault]:
    """Put the numbers on the do-not-call list and close their leads; those that are on it are returned instead.

    As `do_not_call.list_number`, but without its lock per number, since PostgreSQL has not so many: an attempt that
    passes its fence in the very moment of this commit may still be placed.
    """
    dialect = session.get_bind().dialect
    there = select(DoNotCallEntry.number, DoNotCallEntry.text).where(
        DoNotCallEntry.tenant_id == row.tenant_id,
        among(dialect.name, DoNotCallEntry.number, [number.number for number in numbers]),
        DoNotCallEntry.removed_at.is_(None),
    )
    mine = _listing_text(row)
    known = {found.number: row.id if found.text == mine else None for found in await session.execute(there)}
    new, duplicates = _divided(row, numbers, known)
    at = _stamp(dialect)(now)
    listings = ((new_id(), row.tenant_id, n.number, "import", None, mine, at, None, None, None) for n in new)
    await _insert(session, DoNotCallEntry, listings)
    waiting = update(Lead).where(
        Lead.tenant_id == row.tenant_id,
        among(dialect.name, Lead.number, [number.number for number in new]),
        Lead.state.in_(OPEN_LEAD),
        KEPT_LEAD,  # names the index one_lead
    )
    closed = waiting.values(state="barred", last_reason=ON_LIST, lease_owner=None, lease_until=None, updated_at=now)
    await session.execute(closed.execution_options(synchronize_session=False))
    return duplicates


async def write_errors(session: AsyncSession, row: ImportRow, faults: Iterable[RowFault]) -> None:
    """Keep why rows were not taken."""
    rows = ((row.tenant_id, row.id, f.row_no, f.column[:200], f.code, f.value.replace("\0", "")) for f in faults)
    await _insert(session, ImportRowError, rows)


def _listing_text(row: ImportRow) -> str:
    return f"import {row.id}: {row.filename}"


async def use_more_memory(session: AsyncSession) -> None:
    """SQLite: let this connection keep more pages.

    Numbers come in no order, so each insert touches another page of their index; with the usual 2 MB most of them are
    read again and again.
    """
    if session.get_bind().dialect.name == "sqlite":
        await (await session.connection()).exec_driver_sql(f"PRAGMA cache_size=-{SQLITE_CACHE_KB}")


def _divided(
    row: ImportRow, leads: Sequence[LeadValues], known: dict[str, str | None]
) -> tuple[list[LeadValues], list[RowFault]]:
    """Those with new numbers, and what is wrong with the others. `known`: number -> the import that brought it."""
    column = row.mapping["names"][row.mapping["fields"]["number"]]
    new: list[LeadValues] = []
    duplicates: list[RowFault] = []
    for lead in leads:
        if lead.number not in known:
            known[lead.number] = row.id
            new.append(lead)
        else:
            code = "duplicate_in_file" if known[lead.number] == row.id else "duplicate_existing"
            duplicates.append(RowFault(lead.row_no, column, code, lead.number))
    return new, duplicates


def _lead_rows(
    row: ImportRow, leads: Sequence[LeadValues], now: datetime, dialect: Dialect
) -> Iterator[tuple[Any, ...]]:
    stamp = _stamp(dialect)
    at = stamp(now)
    millis = uuid.UUID(row.id).int >> 80
    places: dict[tuple[int, bool, str], Any] = {}
    scrubs: dict[str | None, Any] = {}
    tenant, campaign, import_id = row.tenant_id, row.campaign_id, row.id
    for lead in leads:
        worth = (lead.priority, lead.high_value, lead.tags)
        place = places.get(worth)
        if place is None:
            tags = json.loads(lead.tags)
            first = queue_at(now, priority=lead.priority, high_value=lead.high_value, tags=tags)
            place = places[worth] = stamp(first)
        consent_at = None if lead.consent_at is None else stamp(datetime.fromisoformat(lead.consent_at))
        scrubbed_at = scrubs.get(lead.scrubbed_at)
        if scrubbed_at is None and lead.scrubbed_at is not None:
            scrubbed_at = scrubs[lead.scrubbed_at] = stamp(datetime.fromisoformat(lead.scrubbed_at))
        yield (
            lead_id(millis, lead.row_no), tenant, campaign, lead.number, lead.first_name, lead.last_name, lead.email,
            lead.zones, lead.region, lead.priority, lead.high_value, lead.tags, lead.custom_fields, "ready", at, place,
            0, 0, None, None, None, None, None, None, import_id, consent_at,
            scrubbed_at, at, at,
        )  # fmt: skip


def _consent_rows(
    row: ImportRow, leads: Sequence[LeadValues], now: datetime, dialect: Dialect
) -> Iterator[tuple[Any, ...]]:
    stamp = _stamp(dialect)
    at = stamp(now)
    for lead in leads:
        if lead.consent_kind is not None and lead.consent_at is not None:
            given_at = stamp(datetime.fromisoformat(lead.consent_at))
            document = f'{{"import_id":"{row.id}","row":{lead.row_no}}}'
            yield (
                new_id(), row.tenant_id, lead.number, lead.consent_kind, EVERY_PURPOSE, lead.consent_source, given_at,
                None, None, document, at,
            )  # fmt: skip


def lead_id(millis: int, row_no: int) -> str:
    """A UUID version 7 with the import's time and a counter of 32 bits (RFC 9562, section 6.2, method 1).

    So the ids of an import sort in the order of its file, whichever process read the row and however often it was
    resumed: that is the order of dialing among equals.
    """
    high = millis << 16 | 0x7000 | row_no >> 20
    low = 0b10 << 62 | (row_no & 0xFFFFF) << 42 | getrandbits(42)
    digits = f"{high:016x}{low:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


async def _insert(session: AsyncSession, model: type[Base], rows: Iterable[tuple[Any, ...]]) -> None:
    """INSERT of whole rows, in the order of the table's columns; JSON as text, times as `_stamp` makes them."""
    values = list(rows)
    if values:
        connection = await session.connection()
        await connection.exec_driver_sql(_statement(model, session.get_bind().dialect.name, connection.dialect), values)


def _statement(model: type[Base], name: str, dialect: Dialect) -> str:
    text = _statements.get((model, name))
    if text is None:
        table = cast(Table, model.__table__)
        insert = (sqlite_insert if name == "sqlite" else postgresql_insert)(table)
        compiled = insert.on_conflict_do_nothing().compile(dialect=dialect)
        assert compiled.positiontup == [column.name for column in table.columns]
        text = _statements[model, name] = str(compiled)
    return text


_statements: dict[tuple[type[Base], str], str] = {}


def _stamp(dialect: Dialect) -> _Stamp:
    """What the driver takes for a time."""
    process = UtcDateTime().dialect_impl(dialect).bind_processor(dialect)
    return process if process is not None else (lambda value: value)
