"""In which time zones a lead may be. Pure."""

from __future__ import annotations

from serve_app.dialing.rules import is_zone, place_of
from serve_app.store.campaign_rows import LeadRow


def zones_of(lead: LeadRow) -> list[str]:
    """IANA names in their order, never empty: those given for the lead, else those of its number, else UTC."""
    return sorted(filter(is_zone, lead.zones or ())) or sorted(place_of(lead.number).zones) or ["UTC"]
