"""The settings of a replica: read from the node's own environment, completed by the local services."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import psutil
import ray
from pydantic import BaseModel, ConfigDict
from ray.serve.exceptions import RayServeException

from deployments.local_services import local_endpoints, start_local_services
from serve_app.errors import SettingsError
from serve_app.local_endpoints import needs_local_services, with_local_services
from serve_app.settings import Settings, load_settings


class AppArgs(BaseModel):
    """The `args` of an application in the serve config. Everything else is in the settings or in `user_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    """The settings file on every node; None: PARLEY_CONFIG, else the one that comes with Parley."""


def check_cluster(settings: Settings) -> None:
    """Local services and SQLite belong to one machine: on a cluster of more nodes they are refused, with the remedy.

    Raises SettingsError.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) < 2:
        return
    missing = []
    if settings.database.url is None or settings.database.url.startswith("sqlite"):
        missing.append("DATABASE_URL (PostgreSQL)")
    if settings.redis.url is None:
        missing.append("REDIS_URL")
    if settings.objects.url is None:
        missing.append("OBJECTS_URL")
    if settings.simulated:
        missing.append(f"the keys of {', '.join(sorted(settings.simulated))}")
    if missing:
        raise SettingsError(
            f"this Ray cluster has {len(nodes)} nodes, and local services serve one machine only; set "
            + ", ".join(missing)
        )


def prepare(args: AppArgs) -> None:
    """Refuse wrong settings while the application is built, and start the local services, without waiting for them.

    Wrong settings raise RayServeException, the one error that Serve tells at once: after any other it builds the
    application three times more, each time in a new process.
    """
    try:
        settings = load_settings(args.config)
        check_cluster(settings)
        check_replica_ports(settings)
    except SettingsError as error:
        raise RayServeException(f"SettingsError: {error}") from error
    if needs_local_services(settings):
        start_local_services(args.config)


def check_replica_ports(settings: Settings) -> None:
    """Refuse to share replica ports, or the media port, with another Serve on this machine.

    They and Serve's fallback proxy's are bound with SO_REUSEPORT: two platforms would answer each other's requests.
    Raises SettingsError. Asked on one-node clusters only: elsewhere this process may sit on any of the nodes.
    """
    if len([node for node in ray.nodes() if node["Alive"]]) != 1:  # type: ignore[no-untyped-call]
        return
    first = int(os.environ.get("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "30000"))
    fallback = int(os.environ.get("RAY_SERVE_FALLBACK_PROXY_HTTP_PORT", "8500"))
    media = settings.server.media_port
    raylet = os.getppid()
    with contextlib.suppress(psutil.AccessDenied):
        for connection in psutil.net_connections("tcp"):
            if connection.status != psutil.CONN_LISTEN or connection.pid is None:
                continue
            port = connection.laddr.port if connection.laddr else 0
            if not first <= port < first + 100 and port not in (fallback, media):
                continue
            with contextlib.suppress(psutil.Error):
                other = psutil.Process(connection.pid)
                if other.name().startswith("ray::") and other.ppid() != raylet:
                    raise SettingsError(
                        f"another Ray Serve on this machine (process {other.pid}) listens at port {port}, and replicas "
                        "share their ports; start with `parley up`, which takes its own ports, or set "
                        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT, _MAX_HTTP_PORT, RAY_SERVE_FALLBACK_PROXY_HTTP_PORT "
                        "and MEDIA_PORT"
                    )


async def complete_settings(args: AppArgs) -> tuple[Settings, str | None]:
    """The settings with local services filled in, and the simulators' URL. Raises ParleyError."""
    settings = load_settings(args.config)
    check_cluster(settings)
    if not needs_local_services(settings):
        return settings, None
    endpoints = await local_endpoints(args.config)
    return with_local_services(settings, endpoints), endpoints.simulators_url
