"""What stops an attempt that waits: asked at its claim and its fence, in the transaction that would go on with it."""

from __future__ import annotations

from functools import cache

from sqlalchemy import ColumnElement, and_, case, exists, func, not_
from sqlalchemy.orm import aliased

from serve_app.store.campaign_models import EVERYBODY, Campaign, Consent, Lead, RegistryNumber, Tenant
from serve_app.store.do_not_call import ON_LIST, listed
from serve_app.store.kill_switches import switch_on
from serve_app.store.models import Attempt

NOT_RUNNING = "campaign_not_running"
LEAD_CLOSED = "lead_closed"
TENANT_INACTIVE = "tenant_inactive"
ON_REGISTRY = "on_global_do_not_call_list"
CONSENT_REVOKED = "consent_revoked"


@cache  # putting it together costs more than many a statement that asks it
def barred_by() -> ColumnElement[str | None]:
    """Why an attempt is not to be placed: a reason code; NULL where nothing stands against it."""
    running = exists().where(
        Campaign.tenant_id == Attempt.tenant_id, Campaign.id == Attempt.campaign_id, Campaign.status == "running"
    )
    leased = exists().where(Lead.tenant_id == Attempt.tenant_id, Lead.id == Attempt.lead_id, Lead.state == "leased")
    return func.coalesce(
        case((listed(Attempt.tenant_id, Attempt.to_number), ON_LIST)),
        switch_on(Attempt.tenant_id, Attempt.to_number, Attempt.campaign_id),
        case(
            (and_(Attempt.campaign_id.is_not(None), not_(running)), NOT_RUNNING),
            (and_(Attempt.lead_id.is_not(None), not_(leased)), LEAD_CLOSED),
            (_tenant_inactive(), TENANT_INACTIVE),
            (_on_registry(), ON_REGISTRY),
            (and_(Attempt.campaign_id.is_not(None), _consent_revoked()), CONSENT_REVOKED),
        ),
    )


def _tenant_inactive() -> ColumnElement[bool]:
    """A tenant that is not known is active, as for the calling rules."""
    return exists().where(Tenant.tenant_id == Attempt.tenant_id, Tenant.status != "active")


def _on_registry() -> ColumnElement[bool]:
    return exists().where(
        RegistryNumber.tenant_id.in_((Attempt.tenant_id, EVERYBODY)), RegistryNumber.number == Attempt.to_number
    )


def _consent_revoked() -> ColumnElement[bool]:
    """A consent was taken back, and none was given since: what the calling rules say of it.

    Of the state of now, not of what changed since the attempt was made: a revocation may commit after the claim that
    could not see it yet, and still be the older of the two by its time.
    """
    revoked, anew = aliased(Consent), aliased(Consent)
    given = exists().where(
        anew.tenant_id == revoked.tenant_id,
        anew.number == revoked.number,
        anew.revoked_at.is_(None),
        anew.given_at > revoked.revoked_at,
    )
    return exists().where(
        revoked.tenant_id == Attempt.tenant_id,
        revoked.number == Attempt.to_number,
        revoked.revoked_at.is_not(None),
        not_(given),
    )


def is_barred() -> ColumnElement[bool]:
    return barred_by().is_not(None)
