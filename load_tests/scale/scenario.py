"""What a run does to the platform, and the serve config that it needs."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

from load_tests.scale.changes import Change

CALLS_PER_PROCESS = 4
MAX_SESSION_REPLICAS = 5
SPARE_SLOTS = 4
"""The ramp brings a call every 4 s, and a replica takes up to 10 s to start where all of this shares two cores."""
SETUP_LIMIT_S = 3.0
"""From the request for a call, or its ringing, to the open media socket. 0.3 s of it is the callee's."""
FIRST_AUDIO_LIMIT_S = 1.0
"""From the open socket to the agent's first sounding frame: longer, and people say hello again."""
UNDER_CHANGE = 6
"""So many calls must be up at every second of a change."""
HOLD_LIMIT_S = 300
"""How long the calls are held for changes that do not come to an end."""


@dataclass(frozen=True)
class Scenario:
    """One run: its limits, its load over time, and what is changed meanwhile. Times in seconds."""

    name: str
    purpose: str
    profile: tuple[tuple[int, int], ...]
    """(second, calls wanted): linear in between."""
    hard_stop_s: int = 20
    draining_s: int = 15
    call_s: int = 50
    """In every scenario the same: calls in both directions that last longer than either limit of Serve's."""
    changes: tuple[Change, ...] = ()
    """One after the other once all calls are up, which are held until the last change is through."""
    sockets_per_ingress: int | None = None
    """Ingress replicas grow and shrink by themselves, at so many sockets each; None: only as `ingress` says."""
    through_proxy: bool = False
    """Media passes Serve's proxy instead of the ingress' own listener."""
    shutdown_s: int | None = None
    """`graceful_shutdown_timeout_s` of ingress and sessions; None: as shipped, longer than any call."""
    must_cut: bool = False
    """A control: it fails if no call is cut."""
    overload: int = 0
    """Calls beyond capacity, half inbound and half outbound, asked for at the peak."""
    mixes_at_s: int | None = None
    """When recordings of ended calls are mixed anew: a queue for the codec pool."""

    @property
    def duration_s(self) -> int:
        return self.profile[-1][0]

    @property
    def peak_at_s(self) -> float:
        """When all calls are up."""
        return next(float(at_s) for at_s, calls in self.profile if calls == self.full)

    @property
    def hold_at_s(self) -> float:
        """Where the profile waits for changes: the end of its plateau."""
        return max(float(at_s) for at_s, calls in self.profile if calls == self.full)

    @property
    def full(self) -> int:
        return max(calls for _, calls in self.profile)

    def wanted(self, at_s: float) -> int:
        """Calls wanted at a time."""
        for (began_s, before), (ended_s, after) in zip(self.profile, self.profile[1:], strict=False):
            if began_s <= at_s < ended_s:
                return math.floor(before + (after - before) * (at_s - began_s) / (ended_s - began_s))
        return self.profile[-1][1]

    def document(self, shipped: dict[str, Any]) -> dict[str, Any]:
        """The shipped serve config with little room per replica and this run's limits."""
        document = copy.deepcopy(shipped)
        variables = document["controller_options"]["runtime_env"]["env_vars"]
        variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] = str(self.hard_stop_s)
        variables["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = str(self.draining_s)
        sessions = _deployment(document, "CallSessions")
        sessions["max_ongoing_requests"] = CALLS_PER_PROCESS
        sessions["user_config"] = {
            **sessions["user_config"], "max_calls": CALLS_PER_PROCESS, "spare_slots": SPARE_SLOTS
        }  # fmt: skip
        sessions["autoscaling_config"] |= {"max_replicas": MAX_SESSION_REPLICAS, "downscale_delay_s": 10}
        codec = _deployment(document, "CodecPool")
        codec["max_ongoing_requests"] = 1
        codec["autoscaling_config"] |= {
            "target_ongoing_requests": 1, "max_replicas": 3, "upscale_delay_s": 1, "downscale_delay_s": 15
        }  # fmt: skip
        if self.sockets_per_ingress is None:
            set_ingress(document, 1)
        else:
            _deployment(document, "MediaIngress")["autoscaling_config"] |= {
                "target_ongoing_requests": self.sockets_per_ingress, "max_replicas": 2, "metrics_interval_s": 2,
                "look_back_period_s": 6, "upscale_delay_s": 4, "downscale_delay_s": 10,
            }  # fmt: skip
        if self.shutdown_s is not None:
            for name in ("MediaIngress", "CallSessions"):
                _deployment(document, name)["graceful_shutdown_timeout_s"] = self.shutdown_s
        if self.through_proxy:
            variables["PARLEY_SERVER__MEDIA_PORT"] = ""
        return document


def set_ingress(document: dict[str, Any], replicas: int) -> None:
    """Exactly so many ingress replicas: one step of the slow autoscaling, at a time of our choosing."""
    config = _deployment(document, "MediaIngress")["autoscaling_config"]
    config |= {"min_replicas": replicas, "max_replicas": replicas}


def with_new_args(document: dict[str, Any], settings_file: str) -> dict[str, Any]:
    """Other `args`: Serve replaces every replica of both applications."""
    changed = copy.deepcopy(document)
    for application in changed["applications"]:
        application["args"] = {"config": settings_file}
    return changed


def _deployment(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(d for a in document["applications"] for d in a["deployments"] if d["name"] == name)
    return found


CAPACITY = CALLS_PER_PROCESS * MAX_SESSION_REPLICAS

ROOM_FOR_A_CALL_S = 4
"""A call comes every so many seconds, see `SPARE_SLOTS`."""

RAMP = Scenario(
    name="ramp",
    purpose="sessions, codec pool and ingress grow and shrink, each on its own",
    profile=((0, 0), (60, CAPACITY - 4), (110, CAPACITY - 4), (150, 0), (155, 0)),
    sockets_per_ingress=10,
    overload=12,
    mixes_at_s=80,
)
CHANGES = Scenario(
    name="changes",
    purpose="ingress 1 -> 2 -> 1 and a rolling update of every deployment, under eight calls",
    profile=((0, 0), (8 * ROOM_FOR_A_CALL_S, 8), (8 * ROOM_FOR_A_CALL_S + 5, 8), (8 * ROOM_FOR_A_CALL_S + 6, 0)),
    changes=(Change("ingress", 2), Change("ingress", 1), Change("update")),
)
CONTROL_PROFILE = ((0, 0), (6 * ROOM_FOR_A_CALL_S, 6), (6 * ROOM_FOR_A_CALL_S + 5, 6), (6 * ROOM_FOR_A_CALL_S + 6, 0))
CONTROL_PROXY = Scenario(
    name="control-proxy",
    purpose="an ingress change while media passes Serve's proxy, which reloads: calls must be cut",
    profile=CONTROL_PROFILE,
    changes=(Change("ingress", 2),),
    through_proxy=True,
    must_cut=True,
)
CONTROL_LISTENER = Scenario(
    name="control-listener",
    purpose="an update while replicas that drain are killed after 20 s: calls on the own listener must be cut",
    profile=CONTROL_PROFILE,
    changes=(Change("update"),),
    shutdown_s=20,
    must_cut=True,
)
SCENARIOS = {scenario.name: scenario for scenario in (RAMP, CHANGES, CONTROL_PROXY, CONTROL_LISTENER)}
