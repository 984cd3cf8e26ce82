"""A call as the Voice API describes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from serve_app.telephony.vonage.numbers import from_wire

TERMINAL_STATUSES = frozenset(
    {"completed", "busy", "cancelled", "timeout", "rejected", "failed", "unanswered", "disconnected"}
)


@dataclass(frozen=True, slots=True)
class CallSnapshot:
    """A call as the Voice API tells it. Numbers are E.164 with `+`; `status` is an open set."""

    uuid: str
    conversation_uuid: str | None
    status: str
    direction: str | None
    to: str | None
    from_: str | None
    start_time: datetime | None
    end_time: datetime | None
    duration_s: float | None

    @property
    def over(self) -> bool:
        return self.status in TERMINAL_STATUSES


def read_snapshot(item: dict[str, Any]) -> CallSnapshot | None:
    """A call object of the API; None without uuid or status.

    Own reading, not the SDK's CallInfo: that one refuses a call over any missing or new field.
    """
    uuid, status = item.get("uuid"), item.get("status")
    if not isinstance(uuid, str) or not isinstance(status, str):
        return None
    return CallSnapshot(
        uuid=uuid,
        conversation_uuid=_text(item.get("conversation_uuid")),
        status=status,
        direction=_text(item.get("direction")),
        to=_endpoint(item.get("to")),
        from_=_endpoint(item.get("from")),
        start_time=_time(item.get("start_time")),
        end_time=_time(item.get("end_time")),
        duration_s=_seconds(item.get("duration")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _endpoint(value: object) -> str | None:
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = value.get("number") or value.get("uri")
    return from_wire(value) if isinstance(value, str) else None


def _time(value: object) -> datetime | None:
    """ISO 8601, or `YYYY-MM-DD HH:MM:SS` in UTC."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _seconds(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        return None
