"""The verdict on an ended attempt: from how it ended to what becomes of its lead. The store applies it.

Pure but for the clock that the process goes by (`go_by`), which is real time unless its settings say otherwise.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from serve_app.dialing.campaign_clock import REAL_TIME, CampaignClock
from serve_app.dialing.dispositions import Disposition, disposition_of
from serve_app.dialing.lead_zones import zones_of
from serve_app.dialing.retry import Barred, Done, LeadHistory, Retry, RetryPolicy, next_step, policy_from
from serve_app.store.queue_order import CALLBACK
from serve_app.store.settlement import EndedAttempt, LeadStep

_clock = REAL_TIME


def go_by(clock: CampaignClock) -> None:
    """Let this process settle by `clock`. Once, at its start."""
    global _clock  # noqa: PLW0603 - of the process, like its log
    _clock = clock


def settle_lead(ended: EndedAttempt) -> LeadStep:
    """By the campaign's retry policy, counted from the end of the attempt.

    The jitter follows from the attempt's id, so that the same attempt always gives the same verdict.
    """
    return settle_lead_by(_clock, ended)


def settle_lead_by(clock: CampaignClock, ended: EndedAttempt) -> LeadStep:
    """`settle_lead` by the clock that is given. Pure."""
    attempt, lead, time = ended.attempt, ended.lead, clock.of(ended.campaign_started_at)
    assert attempt.ended_at is not None and attempt.disposition is not None
    disposition = disposition_of(
        attempt.disposition,
        sent=attempt.placing_at is not None,
        answered=ended.answered,
        duration_s=None if ended.duration_s is None else time.lasts(ended.duration_s),
        cause=attempt.detail,
        reported=attempt.reported,
    )
    counts = {**ended.counts, disposition: ended.counts.get(disposition, 0) + 1}
    attempts = _counted(counts)
    history = LeadHistory(
        attempts=attempts,
        counts={Disposition(name): times for name, times in counts.items()},
        called_at=time.shows(attempt.placing_at or attempt.created_at),
        zones=zones_of(lead),
        # Said in the conversation, which goes by real time.
        callback_at=None if attempt.callback_at is None else time.shows(attempt.callback_at),
    )
    # A promise is kept by a call, not by one that could not be placed.
    still_promised = disposition is Disposition.NOT_PLACED and lead.next_at - lead.queue_at >= CALLBACK
    rng = random.Random(attempt.id)
    step = next_step(_policy(ended.retry_policy), history, disposition, time.shows(attempt.ended_at), rng)
    if isinstance(step, Retry):
        return LeadStep(
            result=disposition,
            state="deferred",
            reason=step.reason,
            attempts=attempts,
            next_at=time.when(step.at),
            callback=step.callback or still_promised,
            other_number=step.other_number,
        )
    if isinstance(step, Barred):
        return LeadStep(disposition, "barred", step.reason, attempts, whole_number=step.whole_number)
    return LeadStep(disposition, "done" if isinstance(step, Done) else "exhausted", step.reason, attempts)


def _policy(document: Mapping[str, Any]) -> RetryPolicy:
    """The campaign's, or the default where what is stored cannot be read any more: the call has to end all the same."""
    try:
        return policy_from(document)
    except ValidationError:
        return RetryPolicy()


def _counted(counts: Mapping[str, int]) -> int:
    return sum(times for name, times in counts.items() if name != Disposition.NOT_PLACED)
