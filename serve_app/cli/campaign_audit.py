"""What the phone network saw of a campaign, held against what must never happen. Pure.

It asks the network's own record of its calls, not ours, and tells the local time by the wall clock of each zone, not
by the arithmetic of the calling rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from serve_app.dialing.campaign_clock import CampaignTime
from serve_app.dialing.rules import CallingRules, Jurisdictions, place_of
from serve_app.dialing.rules.windows import Schedule, schedules
from serve_app.store.campaign_rows import LeadRow

MINUTE = timedelta(minutes=1)
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class NetworkCall:
    """One call as the network has it. Real times."""

    uuid: str
    number: str
    answer_url: str
    created_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None

    @property
    def rang_until(self) -> datetime:
        return self.answered_at or self.ended_at or self.created_at


def network_calls(documents: Sequence[Mapping[str, Any]]) -> list[NetworkCall]:
    """Those that we placed, of the simulator's `/sim/calls`, in their order."""
    return [
        NetworkCall(
            uuid=call["uuid"],
            number=f"+{call['to']}",
            answer_url=call["answer_url"] or "",
            created_at=datetime.fromisoformat(call["created_at"]),
            answered_at=_moment(call["answered_at"]),
            ended_at=_moment(call["ended_at"]),
        )
        for call in documents
        if call["direction"] == "outbound"
    ]


def double_dials(calls: Sequence[NetworkCall]) -> int:
    """Calls that were placed while another one to the same number lived, and second requests for one attempt."""
    free_at: dict[str, datetime] = {}
    at_once = 0
    for call in sorted(calls, key=lambda call: call.created_at):
        before = free_at.get(call.number, call.created_at)
        at_once += call.created_at < before
        free_at[call.number] = max(before, call.ended_at or NEVER)
    # Each attempt has a signed link of its own.
    twice = sum(times - 1 for times in Counter(call.answer_url for call in calls).values())
    return at_once + twice


def unknown_calls(calls: Sequence[NetworkCall], known: Collection[str]) -> int:
    """Calls of the network that no attempt of ours knows."""
    return sum(call.uuid not in known for call in calls)


def illegal_minutes(
    calls: Sequence[NetworkCall],
    leads: Mapping[str, LeadRow],
    rules: CallingRules,
    law: Jurisdictions,
    time: CampaignTime,
) -> int:
    """Minutes, by the campaign's clock, in which a phone rang that must not ring. A number without a lead: each one."""
    found = 0
    for call in calls:
        lead = leads.get(call.number)
        moment, end = time.shows(call.created_at), time.shows(call.rang_until)
        while True:
            found += lead is None or not is_legal(lead, rules, law, moment)
            if moment >= end:
                break
            moment = min(moment + MINUTE, end)
    return found


def zones_of(lead: LeadRow) -> frozenset[str]:
    """Where the callee may be: all zones of the number, unless the lead's own is one of them."""
    told, possible = frozenset(lead.zones or ()), place_of(lead.number).zones
    return told if told and told <= possible else told | possible


def place(lead: LeadRow) -> str:
    """Where a lead is, for a report: its zone, or how many it may be in."""
    zones = sorted(zones_of(lead))
    return zones[0] if len(zones) == 1 else f"{len(zones)} zones"


def is_legal(lead: LeadRow, rules: CallingRules, law: Jurisdictions, moment: datetime) -> bool:
    regions = place_of(lead.number).regions | ({lead.region} if lead.region else frozenset())
    week = schedules(law, regions, rules.week, observe_holidays=rules.observe_holidays, with_holidays=True)
    zones = zones_of(lead)
    return bool(zones) and all(_open(moment.astimezone(ZoneInfo(zone)), hours) for zone in zones for hours in week)


def _open(local: datetime, hours: Schedule) -> bool:
    today, minute = local.date(), local.hour * 60 + local.minute
    if hours.closed(today):
        return False
    yesterday = today - timedelta(days=1)
    return any(first <= minute < end for first, end in hours.windows(today)) or any(
        first <= minute + 24 * 60 < end for first, end in hours.windows(yesterday)
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
