"""What configures the simulated Vonage network: the account it knows, its limits, and its faults."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.simulators.callee import CalleeBehaviour
from serve_app.simulators.network_conduct import NetworkConduct

RestFault = Literal[
    "rate_limited",  # 429, nothing done
    "unauthorized",  # 401
    "server_error",  # 500, nothing done
    "hang",  # no answer, nothing done
    "disconnect",  # the connection is cut without an answer, nothing done
    "lost_response",  # done, but no answer comes
    "lost_response_reset",  # done, and the connection is cut without an answer
]
WebhookFault = Literal[
    "webhook_lost", "webhook_duplicated", "webhook_reordered", "webhook_unsigned", "webhook_bad_hash", "webhook_stale"
]
REST_FAULTS: frozenset[str] = frozenset(
    {"rate_limited", "unauthorized", "server_error", "hang", "disconnect", "lost_response", "lost_response_reset"}
)
Operation = Literal["create", "update", "read"]


class NetworkConfig(BaseModel):
    """The account and the application as Vonage knows them. The three secrets belong to the simulation only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_key: str = "simulated"
    application_id: str
    public_key: str
    """PEM of the application's public key: REST requests are signed with its private half."""
    signature_secret: str = Field(min_length=16, repr=False)
    answer_url: str | None = None
    """Where inbound calls are announced."""
    answer_method: Literal["GET", "POST"] = "GET"
    event_url: str | None = None
    calls_per_second: int = Field(3, ge=1)
    """Create-call requests in any rolling second; beyond it 429, nothing is queued (Vonage CPS limit)."""
    requests_per_second: int = Field(15, ge=1)
    """Other Voice API requests in any rolling second."""
    ringing_after_ms: int = Field(100, ge=0)
    connect_timeout_s: float = Field(1.0, gt=0)
    answer_timeout_s: float = Field(5.0, gt=0)
    event_timeout_s: float = Field(10.0, gt=0)
    talk_ms_per_char: float = Field(60, ge=0)
    fire_dropped_notifies: bool = False
    """Whether a clear fires the notifies that it drops: not documented by the vendor."""
    keep_audio: bool = True
    timeline: bool = False
    """Whether legs note the times of what they see (`timeline.py`), for measurements."""
    keep_calls: int = Field(500, ge=1)
    default_callee: CalleeBehaviour | None = None
    """Who answers a number without a behaviour; None: the demonstration's callee."""
    conduct: NetworkConduct = NetworkConduct()


class NetworkFault(BaseModel):
    """One fault, used up after `count` requests or webhooks."""

    model_config = ConfigDict(extra="forbid")

    kind: RestFault | WebhookFault
    count: int = Field(1, ge=1)
    operation: Operation = Field("create", description="REST faults: which request")
    status: str | None = Field(None, description="webhook faults: only events of this status; `answer`: the NCCO fetch")

    @model_validator(mode="after")
    def _fields_fit(self) -> NetworkFault:
        if self.kind in REST_FAULTS and self.status is not None:
            raise ValueError(f"{self.kind} is a fault of a request: it has no status")
        return self


class NetworkFaultBook:
    """The faults that are switched on."""

    def __init__(self) -> None:
        self.active: list[NetworkFault] = []

    def take_rest(self, operation: Operation) -> str | None:
        return self._take(lambda f: f.kind in REST_FAULTS and f.operation == operation)

    def take_webhook(self, status: str) -> str | None:
        """The fault of one delivery."""
        other = REST_FAULTS | {"webhook_reordered"}
        return self._take(lambda f: f.kind not in other and f.status in (None, status))

    def take_reorder(self, status: str) -> bool:
        """Whether the event changes places with the one after it."""
        return self._take(lambda f: f.kind == "webhook_reordered" and f.status in (None, status)) is not None

    def _take(self, fits: Callable[[NetworkFault], bool]) -> str | None:
        for fault in self.active:
            if fits(fault):
                fault.count -= 1
                if fault.count == 0:
                    self.active.remove(fault)
                return fault.kind
        return None


class RollingLimit:
    """At most `limit` grants in any rolling second. A refusal costs nothing."""

    def __init__(self, limit: int, now: Callable[[], float] = time.monotonic) -> None:
        self._grants: deque[float] = deque(maxlen=limit)
        self._now = now

    def grant(self) -> bool:
        now = self._now()
        if len(self._grants) == self._grants.maxlen and now - self._grants[0] < 1.0:
            return False
        self._grants.append(now)
        return True
