"""The state of a simulated call, and how REST and the control API show it."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from serve_app.simulators.callee_actor import Callee
from serve_app.simulators.leg import FRAME_MS, MediaLeg
from serve_app.simulators.network_conduct import CallLuck

RATE_PER_MINUTE = 0.0072


@dataclass(frozen=True, slots=True)
class CallRequest:
    """What the call was asked for: create-call parameters, or an inbound caller. Numbers without `+`."""

    direction: Literal["outbound", "inbound"]
    from_number: str
    to_number: str
    answer_url: str | None
    answer_method: Literal["GET", "POST"]
    ncco: list[dict[str, Any]] | None
    event_url: str | None
    ringing_timer_s: int = 60
    length_timer_s: int = 7200
    machine_detection: Literal["standard", "advanced"] | None = None
    ends_at_machine: bool = False
    region_url: str | None = None


@dataclass(slots=True)
class SimCall:
    """State of one call, as REST and the control API show it."""

    request: CallRequest
    callee: Callee
    luck: CallLuck
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    conversation_uuid: str = field(default_factory=lambda: f"CON-{uuid.uuid4()}")
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: str = "started"
    statuses: list[str] = field(default_factory=list)
    answered_at: datetime | None = None
    ended_at: datetime | None = None
    disconnected_by: Literal["platform", "user"] | None = None
    talk_texts: list[str] = field(default_factory=list)
    media: MediaLeg | None = None
    media_uuid: str | None = None
    problem: str | None = None
    refused_status: int | None = None
    """The HTTP status with which the platform refused the answer webhook or the media socket."""
    hang_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        return self.ended_at is not None

    @property
    def call_id(self) -> str | None:
        """The `call_id` that the NCCO's websocket headers carry."""
        value = None if self.media is None else self.media.endpoint.headers.get("call_id")
        return value if isinstance(value, str) else None

    @property
    def duration_s(self) -> int:
        """Whole seconds from the answer, as the network bills them."""
        if self.answered_at is None:
            return 0
        return round(((self.ended_at or datetime.now(UTC)) - self.answered_at).total_seconds())

    def callee_hangs_up(self) -> None:
        """Now, whether or not the media socket is up."""
        if self.media is None:
            self.hang_up.set()
        else:
            self.disconnected_by = "user"
            self.media.close()

    def to_api(self) -> dict[str, Any]:
        """The call object of `GET /v1/calls`; the SDK refuses one without `_links`."""
        document: dict[str, Any] = {
            "_links": {"self": {"href": f"/v1/calls/{self.uuid}"}},
            "uuid": self.uuid,
            "conversation_uuid": self.conversation_uuid,
            "to": {"type": "phone", "number": self.request.to_number},
            "from": {"type": "phone", "number": self.request.from_number},
            "status": self.status,
            "direction": self.request.direction,
            "start_time": _api_time(self.answered_at),
            "end_time": _api_time(self.ended_at),
            "network": "23410",
        }
        if self.over:
            price = RATE_PER_MINUTE * self.duration_s / 60
            document |= {"duration": str(self.duration_s), "rate": f"{RATE_PER_MINUTE:.8f}", "price": f"{price:.8f}"}
        return document

    def describe(self) -> dict[str, Any]:
        """What `GET /sim/calls` shows."""
        document: dict[str, Any] = {
            "uuid": self.uuid,
            "conversation_uuid": self.conversation_uuid,
            "call_id": self.call_id,
            "direction": self.request.direction,
            "from": self.request.from_number,
            "to": self.request.to_number,
            "outcome": self.callee.behaviour.outcome,
            "status": self.status,
            "statuses": self.statuses,
            "created_at": timestamp(self.created_at),
            "answered_at": None if self.answered_at is None else timestamp(self.answered_at),
            "ended_at": None if self.ended_at is None else timestamp(self.ended_at),
            "answer_url": self.request.answer_url,
            "over": self.over,
            "disconnected_by": self.disconnected_by,
            "duration_s": self.duration_s,
            "steps_done": self.callee.steps_done,
            "steps": len(self.callee.behaviour.steps),
            "talk_texts": self.talk_texts,
            "problem": self.problem,
            "media": None,
        }
        if self.media is not None:
            document["media"] = _describe_leg(self.media) | {"uuid": self.media_uuid}
        return document


def _describe_leg(leg: MediaLeg) -> dict[str, Any]:
    buffer = leg.buffer
    return {
        "uri": leg.endpoint.uri,
        "sample_rate_hz": leg.endpoint.sample_rate_hz,
        "closed": leg.closed,
        "duration_ms": leg.tick * FRAME_MS,
        **asdict(leg.stats),
        "heard_ms": leg.heard_ms,
        "underruns": buffer.underruns,
        "underrun_ms": buffer.underrun_ticks * FRAME_MS,
        "overflowed_frames": buffer.overflowed,
        "cleared_frames": buffer.cleared_frames,
        "dropped_notifies": buffer.dropped_notifies,
        "max_buffered_ms": buffer.max_frames * FRAME_MS,
        "utterances": [
            {
                "text": said.text,
                "sha256": said.sha256,
                "bytes": len(said.pcm),
                "first_frame": said.first_frame,
                "started_ms": said.first_frame * FRAME_MS,
            }
            for said in leg.utterances
        ],
    }


def timestamp(moment: datetime | None = None) -> str:
    """ISO 8601 with milliseconds and Z, as the webhooks carry it."""
    moment = moment or datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _api_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")
