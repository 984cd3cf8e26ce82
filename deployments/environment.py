"""How Serve's proxy runs, and what that costs. Read from the environment that the serve config gives every process."""

from __future__ import annotations

import os
from typing import Any


def haproxy_mode() -> bool:
    return os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"


def describe_serving() -> dict[str, Any]:
    """For `/health` and the start-up log."""
    if haproxy_mode():
        return {
            "haproxy": True,
            "serving": "HAProxy mode: what passes Serve's proxy enters no Ray actor call",
            "hard_stop_after_s": int(os.environ.get("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "120")),
            "min_draining_period_s": float(os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "30")),
        }
    return {
        "haproxy": False,
        "serving": "Serve's Python proxy: a media frame that comes through it passes Ray actor calls, about 2 ms of "
        "CPU each, which is good for a few calls at a time. On Linux, start with the shipped serve_config.yaml, whose "
        "controller_options turn HAProxy mode on.",
    }
