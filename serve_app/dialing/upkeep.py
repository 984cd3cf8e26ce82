"""What leads, campaigns and numbers need though nobody asks: the rounds of every feeder.

Any number of processes may go them at once, and a process that dies leaves nothing that another one does not find.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from serve_app.clock import Clock
from serve_app.dialing.guarded_choice import ASIDE
from serve_app.dialing.number_rest import rest_tired_numbers
from serve_app.dialing.settling import settle_lead
from serve_app.errors import UnavailableError
from serve_app.store.campaign_upkeep import complete_finished, start_scheduled
from serve_app.store.db import Database
from serve_app.store.lead_upkeep import heal, settle_ended

NUMBERS_S = 600.0
MOST_HEALED = 200
MOST_ASIDE = 1000
"""Attempts that are left alone at a time; the longest left ones are looked at again beyond."""

log = structlog.get_logger(__name__)


class Upkeep:
    """The rounds of one process."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._numbers_at = datetime.min.replace(tzinfo=UTC)
        self._aside: dict[str, datetime] = {}
        """Attempts that could not be settled, until when they are left alone."""

    async def run(self, now: datetime) -> None:
        """One round. A step that fails is logged, and the others are gone all the same. Raises UnavailableError."""
        for step in (self._start, self._settle, self._heal, self._complete, self._rest_numbers):
            try:
                await step(now)
            except UnavailableError:
                raise
            except Exception:  # the root of a step: it must not stop the others, nor dialing
                log.exception("upkeep_failed", step=step.__name__.strip("_"))

    async def _start(self, now: datetime) -> None:
        await start_scheduled(self._db, now)

    async def _settle(self, now: datetime) -> None:
        def failed(attempt_id: str) -> None:
            self._aside[attempt_id] = now + ASIDE
            log.exception("attempt_not_settled", attempt_id=attempt_id)

        kept = [(attempt_id, until) for attempt_id, until in self._aside.items() if until > now]
        self._aside = dict(kept[-MOST_ASIDE:])
        await settle_ended(self._db, settle_lead, now, limit=MOST_HEALED, without=tuple(self._aside), failed=failed)

    async def _heal(self, now: datetime) -> None:
        await heal(self._db, now, limit=MOST_HEALED)

    async def _complete(self, now: datetime) -> None:
        completed = await complete_finished(self._db, now)
        if completed:
            log.info("campaigns_completed", count=completed)

    async def _rest_numbers(self, now: datetime) -> None:
        if now >= self._numbers_at:
            self._numbers_at = now + timedelta(seconds=NUMBERS_S)
            await rest_tired_numbers(self._db, self._clock)
