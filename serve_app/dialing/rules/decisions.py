"""What the rules answer: allow, defer or deny, and the reason as a stable code with words for people."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

Concerns = Literal["number", "lead", "campaign", "tenant", "platform"]
"""What a refusal is about. `number` and `lead` close the lead; the others say nothing about it: it stays as it is, and
whoever feeds the dialer stops asking for that campaign, tenant or platform until something changes."""


class Reason(StrEnum):
    """Why a number is not called now. The codes are stored with attempts and leads, so they never change."""

    def __new__(cls, code: str, concerns: Concerns, explanation: str, remedy: str) -> Reason:
        member = str.__new__(cls, code)
        member._value_ = code
        member.concerns = concerns
        member.explanation = explanation
        member.remedy = remedy
        return member

    concerns: Concerns
    explanation: str
    remedy: str

    @property
    def closes_lead(self) -> Literal["barred", "exhausted"] | None:
        """The state of a lead whose call was denied for it; None: the reason says nothing about the lead."""
        if self.concerns not in ("number", "lead"):
            return None
        return "exhausted" if self is Reason.LIFETIME_CAP else "barred"

    KILL_SWITCH_GLOBAL = (
        "kill_switch_global",
        "platform",
        "all dialing is switched off",
        "switch it on again once the cause is known",
    )
    KILL_SWITCH_TENANT = (
        "kill_switch_tenant",
        "tenant",
        "all dialing of this tenant is switched off",
        "switch it on again once the cause is known",
    )
    KILL_SWITCH_CAMPAIGN = (
        "kill_switch_campaign",
        "campaign",
        "this campaign is switched off",
        "switch it on again once the cause is known",
    )
    KILL_SWITCH_NUMBER = (
        "kill_switch_number",
        "lead",
        "this number is switched off",
        "switch it on again if it may be called",
    )
    TENANT_INACTIVE = (
        "tenant_inactive",
        "tenant",
        "this tenant may not place calls",
        "check the state of its account",
    )
    CAMPAIGN_NOT_RUNNING = (
        "campaign_not_running",
        "campaign",
        "the campaign is not running",
        "start or resume it",
    )
    INVALID_NUMBER = (
        "invalid_number",
        "number",
        "no country has assigned this number",
        "check its digits",
    )
    NOT_ON_ALLOW_LIST = (
        "not_on_allow_list",
        "number",
        "outside a campaign a real network dials only the numbers that are allowed by name",
        "add the number to dialing.allowed_numbers, if its owner agreed to be called by an AI voice",
    )
    COUNTRY_NOT_ALLOWED = (
        "country_not_allowed",
        "number",
        "the country of the number is not among those to be called",
        "add it to `countries` of the calling rules, if calls there are meant and paid for",
    )
    ON_DO_NOT_CALL_LIST = (
        "on_do_not_call_list",
        "number",
        "the number is on the do-not-call list",
        "do not call it; if its owner agreed anew, take it off the list with that as the stated reason",
    )
    ON_GLOBAL_DO_NOT_CALL_LIST = (
        "on_global_do_not_call_list",
        "number",
        "the number is on a public do-not-call registry, or on the list of the whole platform",
        "do not call it",
    )
    NO_CONSENT = (
        "no_consent",
        "lead",
        "no consent of the callee to such a call is recorded",
        "record the consent with its source and date, or do not call",
    )
    CONSENT_REVOKED = (
        "consent_revoked",
        "lead",
        "the callee took the consent back",
        "do not call, unless the callee has agreed anew and that is recorded",
    )
    CONSENT_EXPIRED = (
        "consent_expired",
        "lead",
        "the recorded consent is too old, or its term is over",
        "ask for it anew by another way than a call",
    )
    CONSENT_INSUFFICIENT = (
        "consent_insufficient",
        "lead",
        "the recorded consent is of a kind or scope that does not cover this call",
        "record one that does, or change the purpose of the campaign if it was stated wrongly",
    )
    NOT_SCRUBBED = (
        "not_scrubbed",
        "lead",
        "the number was never compared with the national do-not-call list",
        "compare the list of leads with it and record the date",
    )
    SCRUB_STALE = (
        "scrub_stale",
        "lead",
        "the number was compared with the national do-not-call list too long ago",
        "compare the list of leads with it again and record the date",
    )
    LIFETIME_CAP = (
        "lifetime_cap",
        "lead",
        "the number was called as often as the campaign may call it",
        "raise `max_lifetime` of the calling rules, if more calls are wanted",
    )
    TOO_SOON = (
        "too_soon",
        "lead",
        "the last call to the number was too short a time ago",
        "wait, or lower `min_hours_between_calls` of the calling rules",
    )
    ROLLING_CAP = (
        "rolling_cap",
        "lead",
        "the number was called as often as the calling rules allow within a day or a week",
        "wait, or raise the cap of the calling rules",
    )
    LEGAL_CAP = (
        "legal_cap",
        "lead",
        "the number was called as often as the law of its place allows within a time",
        "wait",
    )
    ZONE_UNKNOWN = (
        "zone_unknown",
        "lead",
        "the time zone of the callee cannot be told, so the local time is not known",
        "give the lead a time zone (IANA name)",
    )
    OUTSIDE_WINDOW = (
        "outside_window",
        "lead",
        "calls are not allowed at this local time of the callee, in each place where the callee may be",
        "wait, or give the lead's time zone and region, if they are known",
    )
    HOLIDAY = (
        "holiday",
        "lead",
        "it is a public holiday where the callee may be",
        "wait",
    )
    NO_LEGAL_WINDOW = (
        "no_legal_window",
        "lead",
        "in the coming weeks there is no moment when calls are allowed in each place where the callee may be",
        "give the lead's time zone and region, or widen `hours` of the calling rules",
    )
    SPEND_EXHAUSTED = (
        "spend_exhausted",
        "campaign",
        "what is left of the budget does not pay for one more call",
        "raise the spend cap",
    )
    DAILY_CALLS_EXHAUSTED = (
        "daily_calls_exhausted",
        "campaign",
        "the campaign has placed as many calls as it may in a day",
        "wait for the next day, or raise its daily calls",
    )
    PLAN_MINUTES_EXHAUSTED = (
        "plan_minutes_exhausted",
        "tenant",
        "the minutes of the plan are used up",
        "change the plan, or wait for its next period",
    )
    NO_CALLER_NUMBER = (
        "no_caller_number",
        "campaign",
        "no number of the pool may place a call now",
        "wait, or add numbers to the pool",
    )


@dataclass(frozen=True, slots=True)
class Allow:
    """The number may be called now."""

    until: datetime | None = None
    """From this moment on the call must not begin any more: an attempt's `give_up_at` is at most this. None: no end."""


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now, but from `until` on, as far as is known today."""

    until: datetime
    reason: Reason
    detail: str = ""

    @property
    def explanation(self) -> str:
        return _explained(self.reason, self.detail)

    @property
    def remedy(self) -> str:
        return self.reason.remedy


@dataclass(frozen=True, slots=True)
class Deny:
    """Not now, and time alone changes nothing. `reason.concerns` tells what that means for the lead."""

    reason: Reason
    detail: str = ""

    @property
    def explanation(self) -> str:
        return _explained(self.reason, self.detail)

    @property
    def remedy(self) -> str:
        return self.reason.remedy


Decision = Allow | Defer | Deny


def _explained(reason: Reason, detail: str) -> str:
    return f"{reason.explanation} ({detail})" if detail else reason.explanation
