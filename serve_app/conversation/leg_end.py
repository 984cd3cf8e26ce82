"""The end of a call's leg: what a closed socket means, and how we end a call ourselves."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from serve_app.conversation.lease import CallLease, Outcome
from serve_app.errors import ProviderError
from serve_app.telephony.base import CallControl

HANG_UP_TIMEOUT_S = 8.0
CLOSE_TIMEOUT_S = 3.0
"""How long the network may take to close the socket after a hang-up, before we do."""

log = structlog.get_logger()


def outcome_of_close(reason: str) -> Outcome:
    """What the end of the caller's socket means when we did not end the call.

    A close handshake (1000, 1001, 1005) is the network ending the leg: the callee hung up. Anything else (1006: the
    connection broke; a lost link) is a failure of the media path.
    """
    if not reason.startswith("the caller's socket closed"):
        return "media_failure"
    code = reason.rpartition(" ")[2]
    return "callee_hung_up" if not code.isdigit() or code in ("1000", "1001", "1005") else "media_failure"


async def hang_up(control: CallControl, lease: CallLease, media_closed: asyncio.Event) -> None:
    """End the call by REST, and give the network a moment to close its socket. Never raises for a refusal."""
    try:
        async with asyncio.timeout(HANG_UP_TIMEOUT_S):
            await control.hang_up(lease.carrier_call_id, region_url=lease.region_url)
    except (ProviderError, TimeoutError) as error:
        log.warning("the network did not take the hang-up", call_id=lease.call_id, error=repr(error))
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await media_closed.wait()
