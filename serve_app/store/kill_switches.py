"""Kill switches: while one is on, nothing that it covers is claimed or placed, whatever was queued before."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, and_, literal, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute

from serve_app.store.base import new_id
from serve_app.store.campaign_models import EVERYBODY, KillSwitch, Lead
from serve_app.store.campaign_rows import SwitchRow, SwitchScope
from serve_app.store.leads import reopen_leads
from serve_app.store.rows import to_row
from serve_app.store.scope import TenantScope, changed, insert_or_ignore

NUMBER_SWITCHED_OFF = "kill_switch_number"
"""The reason for which the calling rules close a lead; what else is switched off says nothing about leads."""

_Text = InstrumentedAttribute[str] | InstrumentedAttribute[str | None] | str | None


def switch_on(tenant_id: _Text, number: _Text, campaign_id: _Text) -> ColumnElement[str | None]:
    """`kill_switch_` and the scope of a switch that holds a call, or NULL: of values, or the columns that hold them."""
    own = or_(
        and_(KillSwitch.scope == "number", KillSwitch.key == number),
        and_(KillSwitch.scope == "campaign", KillSwitch.key == campaign_id),
        KillSwitch.scope == "tenant",
    )
    covering = or_(
        and_(KillSwitch.tenant_id == tenant_id, own),
        and_(KillSwitch.tenant_id == EVERYBODY, KillSwitch.scope == "global"),
    )
    code = select(literal("kill_switch_").concat(KillSwitch.scope)).where(covering, KillSwitch.off_at.is_(None))
    return code.order_by(KillSwitch.scope).limit(1).scalar_subquery()


class KillSwitches(TenantScope):
    """The switches of a tenant. The one for everybody is the platform's: `KillSwitches(db, EVERYBODY)`."""

    async def on(self, scope: SwitchScope, key: str, *, reason: str, by: str) -> SwitchRow:
        """Switch off what `key` names: a number or a campaign's id; for `tenant` and `global` it is not looked at.

        One that is on stays as it is. Raises ValueError without a reason, and for a scope that is not this tenant's.
        """
        if not reason.strip():
            raise ValueError("a kill switch is set for a stated reason only")
        key = self._key(scope, key)
        values = {
            "id": new_id(),
            "tenant_id": self.tenant_id,
            "scope": scope,
            "key": key,
            "reason": reason.strip(),
            "on_at": self.clock.now(),
            "on_by": by,
        }
        async with self.db.transaction() as session:
            await changed(session, insert_or_ignore(session, KillSwitch, values))
            return to_row(SwitchRow, (await session.scalars(self._on(scope, key))).one())

    async def off(self, scope: SwitchScope, key: str, *, by: str) -> SwitchRow | None:
        """Allow again what was switched off; leads that were closed for it are ready again. None: it was not."""
        key = self._key(scope, key)
        lift = update(KillSwitch).where(
            KillSwitch.tenant_id == self.tenant_id,
            KillSwitch.scope == scope,
            KillSwitch.key == key,
            KillSwitch.off_at.is_(None),
        )
        values = {"off_at": self.clock.now(), "off_by": by}
        async with self.db.transaction() as session:
            lifted = lift.values(values).returning(KillSwitch).execution_options(synchronize_session=False)
            found = await session.scalar(lifted)
            if found is not None and scope == "number":
                held = and_(Lead.number == key, Lead.last_reason == NUMBER_SWITCHED_OFF)
                await reopen_leads(session, self.tenant_id, held, self.clock.now())
            return None if found is None else to_row(SwitchRow, found)

    async def list(self, *, lifted: bool = False) -> list[SwitchRow]:
        """The switches that are on, oldest first. `lifted`: also those that were."""
        query = select(KillSwitch).where(KillSwitch.tenant_id == self.tenant_id).order_by(KillSwitch.id)
        if not lifted:
            query = query.where(KillSwitch.off_at.is_(None))
        async with self.db.session() as session:
            return [to_row(SwitchRow, found) for found in await session.scalars(query)]

    def _on(self, scope: SwitchScope, key: str) -> Select[KillSwitch]:
        return select(KillSwitch).where(
            KillSwitch.tenant_id == self.tenant_id,
            KillSwitch.scope == scope,
            KillSwitch.key == key,
            KillSwitch.off_at.is_(None),
        )

    def _key(self, scope: SwitchScope, key: str) -> str:
        if (scope == "global") != (self.tenant_id == EVERYBODY):
            raise ValueError(f"a switch of scope {scope} is not one of {self.tenant_id}")
        if scope in ("tenant", "global"):
            return self.tenant_id
        if not key:
            raise ValueError(f"a switch of scope {scope} needs the {scope} that it is for")
        return key
