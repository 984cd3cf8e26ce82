"""The shipped serve config, as the installed Ray Serve reads it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import ServeDeploySchema

from deployments.autoscaling import ingress_policy, session_policy
from deployments.slot_offer import SessionTunables, check_calls_per_replica
from serve_app.paths import serve_config
from serve_app.settings import load_settings


@pytest.fixture(name="document")
def fixture_document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    return document


def deployments(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for application in document["applications"] for entry in application["deployments"]}


def test_serve_takes_it(document: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(document)


def test_calls_per_process_is_one_number(document: dict[str, Any]) -> None:
    sessions = deployments(document)["CallSessions"]
    tunables = SessionTunables.model_validate(sessions["user_config"])
    check_calls_per_replica(tunables.max_calls, sessions["max_ongoing_requests"])
    config = AutoscalingConfig.model_validate(sessions["autoscaling_config"])
    assert config.policy.get_policy().__name__ == session_policy.__name__
    # What is kept ahead fits into what may be started.
    assert tunables.spare_slots < tunables.max_calls * config.max_replicas


def test_the_ingress_counts_the_sockets_of_its_own_listener(document: dict[str, Any]) -> None:
    config = AutoscalingConfig.model_validate(deployments(document)["MediaIngress"]["autoscaling_config"])
    assert config.policy.get_policy().__name__ == ingress_policy.__name__


def test_it_fits_on_two_cpus_and_rolls_over_there(document: dict[str, Any]) -> None:
    least = 0.0
    for entry in deployments(document).values():
        replicas = entry.get("num_replicas") or entry["autoscaling_config"]["min_replicas"]
        least += replicas * entry["ray_actor_options"]["num_cpus"]
    assert least <= 0.8


def test_an_update_leaves_no_deployment_without_a_replica(document: dict[str, Any]) -> None:
    """Not the dialer either: calls that are asked for meanwhile would wait until its successor has started."""
    assert {entry["max_surge_percent"] for entry in deployments(document).values()} == {100}


def test_no_call_is_longer_than_what_drains_it(document: dict[str, Any]) -> None:
    """The hard stop of HAProxy cuts, and so does the end of a replica's grace."""
    longest_s = load_settings().telephony.vonage.length_timer_s
    variables = document["controller_options"]["runtime_env"]["env_vars"]
    assert int(variables["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"]) > longest_s
    for name in ("MediaIngress", "CallSessions"):
        assert deployments(document)[name]["graceful_shutdown_timeout_s"] > longest_s
