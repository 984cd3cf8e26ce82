"""A lead that cannot be decided on must not hold up the others of its campaign, nor those of anybody else."""

from __future__ import annotations

from datetime import datetime, timedelta

import structlog

from serve_app.store.campaign_rows import LeadRow
from serve_app.store.claim_facts import CampaignFacts, NumberFacts
from serve_app.store.lead_claims import Choice, Decide, Halt, PutOff

UNDECIDED = "not_decided"
"""Deciding failed, which is a fault of ours: the log has it. Nobody is called by it."""
ASIDE = timedelta(minutes=15)
"""How long what raised an exception is left alone, so that it fills neither the log nor the batches."""

log = structlog.get_logger(__name__)


class GuardedChoice:
    """The `Decide` of one claim: `choose`, whatever it raises.

    The first lead that it fails on is put off; at the second one the fault is taken to be the campaign's, and the claim
    halts. What was decided before stands, so each claim gets on by at least one lead.
    """

    def __init__(self, choose: Decide, now: datetime) -> None:
        self._choose = choose
        self._now = now
        self._failed = False

    def __call__(self, lead: LeadRow, facts: CampaignFacts, known: NumberFacts) -> Choice:
        try:
            return self._choose(lead, facts, known)
        except Exception:
            log.exception("lead_not_decided", lead_id=lead.id, campaign_id=lead.campaign_id)
        if self._failed:
            return Halt(UNDECIDED)
        self._failed = True
        return PutOff(self._now + ASIDE, UNDECIDED)
