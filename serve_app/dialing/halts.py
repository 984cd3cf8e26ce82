"""What must not be fed now: a campaign, a tenant, the platform, or everything while the network refuses the account."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from serve_app.dialing.fairness import Flow
from serve_app.dialing.guarded_choice import UNDECIDED
from serve_app.dialing.rules import Reason

# What must not dial now is asked again after this; the question is one small claim.
HALTED = timedelta(seconds=10)
# A fault of ours seldom passes by itself, and each time leaves a traceback in the log.
FAULTY = timedelta(seconds=60)
# Nothing that a person does here mends the account at the network; a few calls try it, and are not counted.
ACCOUNT_HALTED = timedelta(seconds=30)
# No tenant is named like that.
ACCOUNT = "/account"
FAULTS = "/faults/"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Halts:
    """What was halted, until when: by campaign, by tenant, or everything."""

    until: dict[str, datetime] = field(default_factory=dict)

    def add(self, flow: Flow, reason: str, now: datetime) -> None:
        concerns = next((known.concerns for known in Reason if known == reason), "campaign")
        of_campaign = FAULTS + _campaign(flow) if reason == UNDECIDED else _campaign(flow)
        key = {"tenant": flow.tenant_id, "platform": ""}.get(concerns, of_campaign)
        self.until[key] = now + HALTED
        log.info("campaign_halted", campaign_id=flow.campaign_id, reason=reason, concerns=concerns)

    def faulty(self, flow: Flow, now: datetime) -> None:
        """Something about this campaign raises what nobody expected; the caller logs it."""
        self.until[FAULTS + _campaign(flow)] = now + FAULTY

    def account(self, why: str, now: datetime) -> None:
        """The network refuses the account: an alarm, for every call of every campaign would be refused."""
        self.until[ACCOUNT] = now + ACCOUNT_HALTED
        log.error(
            "dialing_halted",
            reason=why,
            concerns="platform",
            remedy="check the application's key, the balance and the rights of the account at the network",
        )

    def ask_again(self, tenant_id: str) -> None:
        """Forget what a person of this tenant may have changed. A fault is ours, and the account the network's."""
        own = (tenant_id, "")
        self.until = {
            key: until for key, until in self.until.items() if key not in own and not key.startswith(f"{tenant_id}/")
        }

    def covers(self, flow: Flow) -> bool:
        campaign = _campaign(flow)
        return not self.until.keys().isdisjoint({"", ACCOUNT, flow.tenant_id, campaign, FAULTS + campaign})

    def next(self, now: datetime) -> datetime | None:
        """Forget what is over; when the next one will be."""
        self.until = {key: until for key, until in self.until.items() if until > now}
        return min(self.until.values(), default=None)


def _campaign(flow: Flow) -> str:
    return f"{flow.tenant_id}/{flow.campaign_id}"
