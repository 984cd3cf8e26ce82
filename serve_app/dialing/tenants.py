"""Whose calls are to be placed: the one question of dialing that goes across tenants."""

from __future__ import annotations

from sqlalchemy import select

from serve_app.store.db import Database
from serve_app.store.models import ONE_LIVE, Attempt


async def tenants_with_live_attempts(db: Database) -> list[str]:
    """The tenants that have an attempt which has not ended. Raises UnavailableError."""
    # The predicate is that of the partial index `one_live`, so this reads live attempts only, whatever the history.
    query = select(Attempt.tenant_id).where(ONE_LIVE).distinct().order_by(Attempt.tenant_id)
    async with db.session() as session:
        return list(await session.scalars(query))
