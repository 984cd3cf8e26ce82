"""What most replicas open first: settings, SQL, Redis, object store, the phone network's REST client."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass

from deployments.config import AppArgs, complete_settings
from deployments.vitals import Vitals
from serve_app.dialing.campaign_clock import campaign_clock
from serve_app.dialing.settling import go_by
from serve_app.errors import ParleyError
from serve_app.log import configure_logging
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.telephony.vonage.rest import VonageClient


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
    vitals: Vitals
    reporting: asyncio.Task[None]

    async def aclose(self) -> None:
        self.reporting.cancel()
        await self.vonage.aclose()
        await self.live.aclose()
        await self.db.aclose()


async def open_runtime(args: AppArgs, role: str) -> Runtime:
    """Open everything, in a bounded time. Raises ParleyError naming what does not answer."""
    settings, simulators_url = await complete_settings(args)
    configure_logging(settings.log)
    go_by(campaign_clock(settings))
    assert settings.database.url is not None and settings.redis.url is not None
    timeout_s = settings.database.connect_timeout_s
    db = await Database.connect(settings.database.url, connect_timeout_s=timeout_s)
    try:
        await db.check_schema()
    except ParleyError:
        await db.aclose()
        raise
    live = await LiveState.connect(settings.redis.url, connect_timeout_s=settings.redis.connect_timeout_s)
    owner = f"{role}@{socket.gethostname()}:{os.getpid()}"
    vitals = Vitals(live, role, owner)
    return Runtime(
        settings=settings,
        db=db,
        live=live,
        objects=ObjectStore.open(settings.objects.url, settings.data_dir.expanduser().resolve()),
        vonage=VonageClient(settings.telephony.vonage),
        owner=owner,
        simulators_url=simulators_url,
        vitals=vitals,
        reporting=asyncio.create_task(vitals.run()),
    )
