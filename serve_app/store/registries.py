"""Public do-not-call registries, as a tenant that subscribes to one loaded it, or the platform for everybody.

A registry is not a wish told to this tenant: it has exceptions in law, and it is replaced as a whole when a newer list
comes. The calling rules decide what being on one means.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, func, insert, select

from serve_app.store.campaign_models import RegistryNumber
from serve_app.store.scope import TenantScope, changed

AT_ONCE = 5000


class Registries(TenantScope):
    """`Registries(db, EVERYBODY)` are the platform's: they hold for every tenant."""

    async def replace(self, source: str, numbers: Collection[str]) -> int:
        """Make `numbers` (E.164) the whole of a registry; how many they are. In one transaction: never half a list."""
        now = self.clock.now()
        rows = [
            {"tenant_id": self.tenant_id, "number": number, "source": source, "listed_at": now}
            for number in sorted(set(numbers))
        ]
        old = delete(RegistryNumber).where(RegistryNumber.tenant_id == self.tenant_id, RegistryNumber.source == source)
        async with self.db.transaction() as session:
            await changed(session, old.execution_options(synchronize_session=False))
            for start in range(0, len(rows), AT_ONCE):
                await session.execute(insert(RegistryNumber), rows[start : start + AT_ONCE])
        return len(rows)

    async def sizes(self) -> dict[str, int]:
        """How many numbers each registry has."""
        query = (
            select(RegistryNumber.source, func.count())
            .where(RegistryNumber.tenant_id == self.tenant_id)
            .group_by(RegistryNumber.source)
        )
        async with self.db.session() as session:
            return {source: int(count) for source, count in await session.execute(query)}
