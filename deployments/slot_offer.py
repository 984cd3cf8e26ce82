"""What a session replica offers: its slots while it can take calls, only what it holds once it drains or lags."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.load_report import measured
from serve_app.errors import SettingsError
from serve_app.loop_lag import LoopLag
from serve_app.store.live import LiveState
from serve_app.store.reports import SessionBeat

BEAT_TTL_S = 3.0


class SessionTunables(BaseModel):
    """`user_config` of CallSessions, changed in place without a restart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_calls: int = Field(10, ge=1, description="calls per replica: equal to the deployment's max_ongoing_requests")
    spare_slots: int = Field(0, ge=0, description="free slots to keep ahead, over all replicas: the warm pool")
    lag_limit_ms: float = Field(
        100,
        gt=0,
        description="event-loop lag (p95 over 5 s) beyond which a replica takes no more calls: half of the shortest "
        "playout lead, so that its calls are still whole",
    )


def check_calls_per_replica(max_calls: int, max_ongoing_requests: int) -> None:
    """One number, said twice because Serve and we both need it. Raises SettingsError if the two differ."""
    if max_calls != max_ongoing_requests:
        raise SettingsError(
            f"CallSessions: user_config.max_calls is {max_calls} but max_ongoing_requests is {max_ongoing_requests}; "
            "set both to the calls per replica (the shipped file does it with one YAML anchor, calls_per_process)"
        )


class SlotOffer:
    """The heartbeat of one session replica, and what it knows of the platform's demand."""

    def __init__(self, replica: str, live: LiveState, tunables: SessionTunables) -> None:
        self._replica = replica
        self._beats = SessionBeat(live)
        self.tunables = tunables
        self.lag = LoopLag()
        self.calls = 0
        """Open calls of this replica."""
        self.strained = False
        self._slots_used = 0
        self._calls_waiting = 0

    def offered(self, *, draining: bool) -> int:
        """Slots to announce.

        A replica that takes no more calls still announces those that it holds: they hold slots, and would otherwise be
        counted against the other replicas' room.
        """
        if draining:
            return self.calls
        return self.calls if self.strained else max(self.calls, self.tunables.max_calls)

    async def beat(self, *, draining: bool) -> None:
        """Announce the slots, report the load, and read the demand. Raises UnavailableError."""
        self._judge_lag()
        offered = self.offered(draining=draining)
        slots = None if draining and not offered else offered
        self._slots_used, demand = await self._beats.beat(self._replica, slots, self._report(offered), BEAT_TTL_S)
        self._calls_waiting = sum(int(report["waiting"]) for report in demand.values())

    def stats(self) -> dict[str, float]:
        """What `deployments.autoscaling.session_policy` decides from."""
        return {
            "calls_per_replica": self.tunables.max_calls,
            "spare_slots": self.tunables.spare_slots,
            "slots_used": self._slots_used,
            "calls_waiting": self._calls_waiting,
            "strained": int(self.strained),
        }

    def _judge_lag(self) -> None:
        """Strained above the limit, fit again below half of it: no flapping in between.

        The lag of a process without calls is that of its own start, or somebody else's doing: it counts for nothing.
        """
        if not self.calls:
            self.lag.forget()
        lag_ms = self.lag.percentile_ms(0.95)
        limit_ms = self.tunables.lag_limit_ms
        self.strained = lag_ms > (limit_ms / 2 if self.strained else limit_ms)

    def _report(self, offered: int) -> dict[str, Any]:
        return {
            "role": "sessions",
            **measured(self.lag),
            "calls": self.calls,
            "capacity": self.tunables.max_calls,
            "offered": offered,
        }
