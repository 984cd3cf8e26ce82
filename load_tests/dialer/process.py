"""One dialer: its core and its feeder, put together as `deployments/dialer.py` does, in a process without Ray.

SIGUSR1 is the wake-up that the platform sends when a person changed something.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from typing import Any

from load_tests.dialer.child import CONNECT_S, say_ready
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Dialer
from serve_app.dialing.feeder import Feeder
from serve_app.dialing.rules import Jurisdictions
from serve_app.dialing.rules.jurisdictions import DEFAULT, LegalRules, PlaceRules
from serve_app.log import configure_logging
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.telephony.vonage.rest import VonageClient

NO_NIGHT = Jurisdictions(
    [
        PlaceRules(
            region=DEFAULT,
            name="a place without night",
            versions=(
                LegalRules(
                    effective_from=date(2000, 1, 1),
                    source="nobody is called here: these runs work at every hour of every day",
                    hours={"mon-sun": ("00:00-24:00",)},
                    consent={"marketing": ("express",), "informational": ("express",)},
                ),
            ),
        )
    ]
)


@dataclass(frozen=True, slots=True)
class DialerOptions:
    settings: dict[str, Any]
    """A document of `Settings`."""
    owner: str


async def dial(pipe: Connection, options: DialerOptions) -> None:
    """Feed and dial until the process ends; told through the pipe that it begins."""
    settings = Settings(**options.settings)
    configure_logging(settings.log)
    assert settings.database.url is not None and settings.redis.url is not None
    clock = SystemClock()
    db = await Database.connect(settings.database.url, connect_timeout_s=CONNECT_S)
    live = await LiveState.connect(settings.redis.url, connect_timeout_s=CONNECT_S)
    network = VonageClient(settings.telephony.vonage)
    core = Dialer(db, live, network, settings, clock, options.owner, moved=lambda: feeder.wake())  # noqa: PLW0108  made below
    feeder = Feeder(db, live, settings, clock, options.owner, fed=core.wake, pressure=core.pressure, law=NO_NIGHT)

    def wake() -> None:
        core.wake()
        feeder.changed(settings.tenant)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, wake)
    say_ready(pipe)
    async with asyncio.TaskGroup() as group:
        group.create_task(core.run())
        group.create_task(feeder.run())
