"""The beats of a session process: its calls' slots and leases, renewed for all of them in one command."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from serve_app.conversation.lease import CallLease
from serve_app.errors import UnavailableError
from serve_app.store.live import HeldCall, LiveState

CALL_BEAT_S = 2.0
CALL_LEASE_TTL_S = 8.0
SLOT_TTL_S = 60.0

Command = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

log = structlog.get_logger()


class CallBeats:
    """`hold` a call, `let_go` of it; `run` is a task of the process for as long as it lives."""

    def __init__(self, live: LiveState, replica: str) -> None:
        self._live = live
        self._replica = replica
        self._held: dict[str, tuple[HeldCall, Command]] = {}
        self._begun = asyncio.Event()
        # A beat that is on its way must not bring back the lease of a call that is being let go.
        self._talking = asyncio.Lock()

    def hold(self, call: CallLease, command: Command) -> None:
        """From now on: keep the slot and the lease alive. A newer epoch of the call ends it by `command`."""
        info = {"tenant_id": call.tenant_id, "replica": self._replica}
        self._held[call.call_id] = (HeldCall(call.slot_id, call.call_id, call.epoch, info, call.scopes), command)
        self._begun.set()

    async def let_go(self, call: CallLease) -> None:
        """Free the slot and end the lease. Without Redis they run out by themselves."""
        self._held.pop(call.call_id, None)
        try:
            async with self._talking:
                await self._live.release(call.slot_id)
                await self._live.drop_call(call.call_id, call.epoch)
        except UnavailableError as error:
            log.warning("the call's lease expires by itself", call_id=call.call_id, error=str(error))

    async def run(self) -> None:
        """Beat until cancelled: every `CALL_BEAT_S`, and at once when a call begins."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_BEAT_S):
                    await self._begun.wait()
            self._begun.clear()
            try:
                await self._beat()
            except UnavailableError as error:
                log.warning("the calls' leases could not be renewed", calls=len(self._held), error=str(error))
            except Exception:  # the root of the beat: a call whose beat ends is taken for dead, and hung up
                log.exception("the calls' leases could not be renewed")

    async def _beat(self) -> None:
        async with self._talking:
            held = list(self._held.values())
            calls = [call for call, _ in held]
            kept = await self._live.hold(calls, slot_ttl_s=SLOT_TTL_S, lease_ttl_s=CALL_LEASE_TTL_S)
        for (call, command), ours in zip(held, kept, strict=True):
            if not ours and self._held.pop(call.call_id, None) is not None:
                await command({"type": "superseded"})
