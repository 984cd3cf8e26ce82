"""Calls of the network that nobody answers for any more: hung up, so that nobody picks up to silence.

The answer to their request was lost, the network did not list them in time, so their attempt was given up; and each of
their webhooks was lost too, for the first one that comes hangs them up. It takes all of that, and yet a phone rings.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from serve_app.clock import Clock
from serve_app.dialing.looks import together, window_of
from serve_app.dialing.tenants import given_up_since, is_being_called
from serve_app.store.db import Database
from serve_app.telephony.vonage.rest import VonageClient
from serve_app.telephony.vonage.snapshot import CallSnapshot

LOOK_BACK = timedelta(minutes=10)
"""After an attempt was given up. A request does not stay on its way for longer."""

log = structlog.get_logger(__name__)


async def hang_up_strays(db: Database, vonage: VonageClient, clock: Clock, turn: Callable[[], Awaitable[None]]) -> int:
    """Look once for calls of attempts that were given up; how many were hung up.

    `turn` is awaited before each request, for the account's limit of them. Asks the network only where there are such
    attempts, and for their times only. Raises UnavailableError or ProviderError.
    """
    given_up = await given_up_since(db, clock.now() - LOOK_BACK)
    ours = {(attempt.to_number, attempt.from_number) for attempt in given_up}
    sent_at = [attempt.placing_at for attempt in given_up if attempt.placing_at is not None]
    found: dict[str, CallSnapshot] = {}
    for some in together(sent_at, _itself):
        since, until = window_of(some[0], some[-1])
        found |= {call.uuid: call for call in await vonage.list_calls(since, until, turn)}
    hung_up = 0
    for call in found.values():
        if call.to is None or (call.to, call.from_) not in ours or call.over or call.direction == "inbound":
            continue
        # Asked after the list, so a call that began since is not in it: this one may be a later attempt's.
        if await is_being_called(db, call.to):
            continue
        log.warning("stray_call", carrier_call_id=call.uuid, status=call.status)
        await turn()
        await vonage.hang_up(call.uuid)
        hung_up += 1
    return hung_up


def _itself(at: datetime) -> datetime:
    return at
