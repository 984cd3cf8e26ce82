"""What stops an attempt that waits: asked at its claim and its fence, in the transaction that would go on with it."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, case, exists, func, not_

from serve_app.store.campaign_models import Campaign, Lead
from serve_app.store.do_not_call import ON_LIST, listed
from serve_app.store.kill_switches import switch_on
from serve_app.store.models import Attempt

NOT_RUNNING = "campaign_not_running"
LEAD_CLOSED = "lead_closed"


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
        ),
    )


def is_barred() -> ColumnElement[bool]:
    return barred_by().is_not(None)
