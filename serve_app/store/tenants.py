"""What a tenant may use: its plan, its limits, and whether it may dial at all."""

from __future__ import annotations

from typing import Any

from serve_app.store.campaign_models import EVERYBODY, Tenant
from serve_app.store.campaign_rows import TenantRow, TenantStatus
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope


class Tenants(TenantScope):
    async def put(
        self,
        business_name: str,
        plan: str,
        *,
        status: TenantStatus = "active",
        country: str | None = None,
        calling_rules: dict[str, Any] | None = None,
        weight: int = 1,
        max_concurrent: int | None = None,
        daily_calls: int | None = None,
        spend_cap_minor: int | None = None,
    ) -> TenantRow:
        """Store the whole row, in place of the one that may be there."""
        return await self.change(
            plan,
            business_name=business_name,
            status=status,
            country=country,
            calling_rules=calling_rules,
            weight=weight,
            max_concurrent=max_concurrent,
            daily_calls=daily_calls,
            spend_cap_minor=spend_cap_minor,
        )

    async def change(self, plan: str | None, *, first_plan: str = "", **changes: Any) -> TenantRow:
        """Change these columns; the others stay. A tenant of whom nothing is known gets a row.

        `plan` None: it stays, or is `first_plan` for a tenant without a row.
        """
        if self.tenant_id == EVERYBODY:
            raise ValueError(f"{EVERYBODY} stands for every tenant; give the tenant another name")
        now = self.clock.now()
        async with self.db.transaction() as session:
            found = await session.get(Tenant, self.tenant_id, with_for_update=True)
            if found is None:
                fresh: dict[str, Any] = {"business_name": self.tenant_id, "status": "active", "weight": 1}
                found = Tenant(tenant_id=self.tenant_id, created_at=now, plan=first_plan, **fresh)
                session.add(found)
            for column, value in (changes if plan is None else changes | {"plan": plan}).items():
                setattr(found, column, value)
            found.updated_at = now
            await session.flush()
            return to_row(TenantRow, found)

    async def get(self) -> TenantRow | None:
        """None: nothing is known of it, so it has the smallest plan."""
        async with self.db.session() as session:
            found = await session.get(Tenant, self.tenant_id)
            return None if found is None else to_row(TenantRow, found)
