"""The receiving side of the mailboxes: one blocking read per session process for all of its live calls."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog

from serve_app.errors import UnavailableError
from serve_app.store.redis_streams import entries, inbox_key

if TYPE_CHECKING:
    from serve_app.store.live import LiveState

CommandHandler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

BLOCK_S = 5.0
RETRY_S = 0.5
REPLY_LIFE_S = 30.0
log = structlog.get_logger()


class Mailroom:
    """Delivers the commands of the calls that are `add`ed, at most once each, and acknowledges them.

    `run` reads until it is cancelled; keep it in the task group of the session process.
    """

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self._handlers: dict[str, CommandHandler] = {}
        self._last_ids: dict[str, str] = {}
        # An own stream among those read: an entry there ends the blocking read when a call is added.
        self._wake_stream = f"parley:mailroom:{secrets.token_urlsafe(9)}"
        self._wanted = asyncio.Event()

    def add(self, call_id: str, handler: CommandHandler) -> None:
        """Deliver the call's commands to `handler`, those included that were posted before and are not too late.

        The handler returns the answer as a JSON object, and must not raise.
        """
        self._handlers[call_id] = handler
        self._last_ids[inbox_key(call_id)] = "0"
        self._wanted.set()

    def remove(self, call_id: str) -> None:
        """No more commands for this call; one that is being executed is still acknowledged."""
        self._handlers.pop(call_id, None)
        self._last_ids.pop(inbox_key(call_id), None)

    async def run(self) -> None:
        """Read and deliver until cancelled. Redis being away is logged and waited out."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._wake_reader())
            wake_id = "0"
            task = asyncio.current_task()
            while task is None or not task.cancelling():
                try:
                    wake_id = await self._read_once(group, wake_id)
                except (UnavailableError, TimeoutError) as error:
                    log.warning("mailroom_waits", error=str(error))
                    await asyncio.sleep(RETRY_S)
            raise asyncio.CancelledError

    async def _read_once(self, group: asyncio.TaskGroup, wake_id: str) -> str:
        positions: dict[Any, Any] = {self._wake_stream: wake_id, **self._last_ids}
        with self._live.reachable():
            async with asyncio.timeout(BLOCK_S * 2):
                found = await self._live.blocking.xread(positions, block=round(BLOCK_S * 1000))
        for stream, items in entries(found).items():
            if stream == self._wake_stream:
                wake_id = items[-1][0]
                continue
            if stream in self._last_ids:
                self._last_ids[stream] = items[-1][0]
            call_id = stream[len("call:") : -len(":in")]
            for entry_id, fields in items:
                group.create_task(self._deliver(call_id, entry_id, fields))
        return wake_id

    async def _deliver(self, call_id: str, entry_id: str, fields: dict[str, str]) -> None:
        handler = self._handlers.get(call_id)
        if handler is None:
            return
        try:
            left_s = await self._live.take_command(call_id, entry_id, int(fields["deadline"]))
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(left_s):
                    answer = await handler(json.loads(fields["command"]))
            except TimeoutError:
                answer = {"ok": False, "error": "the call did not carry out the command in time"}
            await self._live.answer_command(fields["reply"], answer, REPLY_LIFE_S)
        except UnavailableError as error:
            log.warning("command_unacknowledged", call_id=call_id, error=str(error))
        except Exception:  # the root of one command: a faulty handler must not end the delivery to other calls
            log.exception("command_failed", call_id=call_id)

    async def _wake_reader(self) -> None:
        task = asyncio.current_task()
        # A cancellation that the client of Redis turned into a failure of its own still ends this.
        while task is None or not task.cancelling():
            await self._wanted.wait()
            self._wanted.clear()
            try:
                with self._live.reachable():
                    async with self._live.client.pipeline(transaction=False) as pipe:
                        pipe.xadd(self._wake_stream, {"wake": "1"}, maxlen=1, approximate=False)
                        pipe.pexpire(self._wake_stream, 60_000)
                        await pipe.execute()
            except UnavailableError:
                # The reader fails as well then, and starts over with every call.
                await asyncio.sleep(RETRY_S)
