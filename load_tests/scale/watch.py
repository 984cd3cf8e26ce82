"""What the platform looks like, once a second: replicas by deployment, slots, calls, loop lag."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import httpx
import redis

from load_tests.scale.traffic import Traffic
from serve_app.store.redis_scripts import VALID_REPORTS
from serve_app.store.redis_slot_scripts import CAPACITY
from serve_app.store.reports import LOAD

MINIMUM = {"MediaIngress": 1, "CallSessions": 1, "CodecPool": 1, "ControlApi": 1, "Dialer": 1, "Workers": 1}


@dataclass(frozen=True, slots=True)
class Sample:
    """One second of a run. Counts, except where a unit is named."""

    at_s: float
    wanted: int
    open: int
    """Calls asked for and not over."""
    talking: int
    completed: int
    refused: int
    not_placed: int
    cut: int
    slots: int
    slots_used: int
    lag_p95_ms: float
    """The worst replica's, over its last 5 s."""
    ids: dict[str, dict[str, str]]
    """deployment -> replica id -> state (RUNNING, STARTING, STOPPING ...)."""

    @property
    def replicas(self) -> dict[str, dict[str, int]]:
        """deployment -> state -> replicas."""
        return {name: dict(Counter(states.values())) for name, states in self.ids.items()}

    def running(self, deployment: str) -> int:
        return sum(1 for state in self.ids.get(deployment, {}).values() if state == "RUNNING")

    @property
    def at_minimum(self) -> bool:
        """Every deployment is back where it began, and nothing drains any more."""
        return all(self.replicas.get(name) == {"RUNNING": count} for name, count in MINIMUM.items())

    def document(self) -> dict[str, Any]:
        return asdict(self)


class Watcher:
    """Reads Serve's dashboard and Redis."""

    def __init__(self, dashboard: str, redis_url: str) -> None:
        self._http = httpx.Client(base_url=dashboard, timeout=10)
        self._redis = redis.Redis.from_url(redis_url, decode_responses=True)
        self._capacity: Any = self._redis.register_script(CAPACITY)
        self._reports: Any = self._redis.register_script(VALID_REPORTS)
        self._last: dict[str, dict[str, str]] = {}

    def sample(self, traffic: Traffic, wanted: int) -> Sample:
        slots, used = self._capacity(keys=["parley:beats", "parley:capacities", "parley:capacity", "parley:slots"])
        lags = [report["lag_p95_ms"] for report in self._loads()]
        return Sample(
            at_s=round(traffic.now_s(), 2),
            wanted=wanted,
            open=traffic.open,
            talking=traffic.talking,
            completed=len(traffic.fates("completed")),
            refused=len(traffic.fates("refused")),
            not_placed=len(traffic.fates("not_placed")),
            cut=len(traffic.fates("cut")),
            slots=int(slots),
            slots_used=int(used),
            lag_p95_ms=max(lags, default=0.0),
            ids=self._replicas(),
        )

    def close(self) -> None:
        self._http.close()
        self._redis.close()

    def _loads(self) -> list[dict[str, Any]]:
        flat = self._reports(keys=[f"parley:{LOAD}:beats", f"parley:{LOAD}"])
        return [json.loads(report) for report in flat[1::2]]

    def _replicas(self) -> dict[str, dict[str, str]]:
        try:
            applications = self._http.get("/api/serve/applications/").json()["applications"]
        except (httpx.HTTPError, ValueError):
            return self._last  # the dashboard is busy: what was true a second ago
        # An application that is being built anew shows no deployments for a while, though its replicas run on.
        self._last = self._last | {
            name: {str(replica["replica_id"]): str(replica["state"]) for replica in deployment["replicas"]}
            for application in applications.values()
            for name, deployment in application["deployments"].items()
        }
        return self._last
