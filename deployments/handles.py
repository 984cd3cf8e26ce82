"""Handles to deployments of the other application, for event loops that carry calls."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle


def ready_handle(deployment: str, app: str) -> DeploymentHandle[Any]:
    """A handle, without asking the controller whether there is such a deployment; its router runs already.

    That question blocks the whole event loop, for ever while the controller restarts, and its answer may be KeyError.
    Requests wait until the deployment is there: give each of them a deadline.
    """
    handle: DeploymentHandle[Any] = serve.get_deployment_handle(
        deployment, app_name=app, _check_exists=False, _record_telemetry=False
    )
    warm(handle)
    return handle


def warm(*handles: DeploymentHandle[Any]) -> None:
    """Start the handles' routers at a replica's start. Serve does it at the first request, which is a call's."""
    for handle in handles:
        handle.options()
