"""What every replica opens first: the settings, the local services where URLs are missing, SQL, Redis, objects."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import ray
from pydantic import BaseModel, ConfigDict

from deployments.local_services import local_endpoints
from serve_app.errors import ParleyError, SettingsError
from serve_app.local_endpoints import needs_local_services, with_local_services
from serve_app.log import configure_logging
from serve_app.settings import Settings, load_settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.telephony.vonage.rest import VonageClient


class AppArgs(BaseModel):
    """The `args` of an application in the serve config. Everything else is in the settings or in `user_config`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: Path | None = None
    """The settings file on every node; None: PARLEY_CONFIG, else the one that comes with Parley."""


@dataclass(slots=True)
class Runtime:
    """The shared things of one replica."""

    settings: Settings
    db: Database
    live: LiveState
    objects: ObjectStore
    vonage: VonageClient
    owner: str
    simulators_url: str | None

    async def aclose(self) -> None:
        await self.vonage.aclose()
        await self.live.aclose()
        await self.db.aclose()


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


async def complete_settings(args: AppArgs) -> tuple[Settings, str | None]:
    """The settings with local services filled in, and the simulators' URL. Raises ParleyError."""
    settings = load_settings(args.config)
    check_cluster(settings)
    if not needs_local_services(settings):
        return settings, None
    endpoints = await local_endpoints(args.config)
    return with_local_services(settings, endpoints), endpoints.simulators_url


async def open_runtime(args: AppArgs, role: str) -> Runtime:
    """Open everything, in a bounded time. Raises ParleyError naming what does not answer."""
    settings, simulators_url = await complete_settings(args)
    configure_logging(settings.log)
    assert settings.database.url is not None and settings.redis.url is not None
    timeout_s = settings.database.connect_timeout_s
    db = await Database.connect(settings.database.url, connect_timeout_s=timeout_s)
    try:
        await db.check_schema()
    except ParleyError:
        await db.aclose()
        raise
    live = await LiveState.connect(settings.redis.url, connect_timeout_s=settings.redis.connect_timeout_s)
    return Runtime(
        settings=settings,
        db=db,
        live=live,
        objects=ObjectStore.open(settings.objects.url, settings.data_dir.expanduser().resolve()),
        vonage=VonageClient(settings.telephony.vonage),
        owner=f"{role}@{socket.gethostname()}:{os.getpid()}",
        simulators_url=simulators_url,
    )
