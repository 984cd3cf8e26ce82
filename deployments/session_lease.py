"""The streaming handle call that holds a session for as long as a call lasts."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from typing import Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator

from serve_app.conversation.lease import CallLease


class SessionLease:
    """The streaming handle call that holds a session for as long as the call lasts.

    It runs in a context of its own: Serve cancels the handle calls of a WebSocket whose client hangs up, and the
    session must end the call in order instead.
    """

    def __init__(self, sessions: DeploymentHandle[Any], lease: CallLease, node_id: str) -> None:
        self._first: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.ended = False
        """The session said that it is done."""
        self.on_failed: Callable[[str], None] = lambda reason: None
        self.task = asyncio.create_task(
            self._follow(sessions, lease.model_dump(mode="json"), node_id), context=contextvars.Context()
        )
        """Ends when the session is done, which may be long after the socket: whoever leases keeps it."""

    async def first(self, timeout_s: float) -> dict[str, Any]:
        """Where the frames go. Raises TimeoutError, RayError or RayServeException."""
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self._first)

    def release(self) -> None:
        """Give the session back before the call began."""
        self.task.cancel()

    async def _follow(self, sessions: DeploymentHandle[Any], lease: dict[str, Any], node_id: str) -> None:
        stream = sessions.options(stream=True).run_call.remote(lease, node_id)
        assert isinstance(stream, DeploymentResponseGenerator)
        try:
            async for event in _items(stream):
                if not self._first.done():
                    self._first.set_result(event)
                elif event.get("type") == "ended":
                    self.ended = True
        except (RayError, RayServeException) as error:
            if not self._first.done():
                self._first.set_exception(error)
            elif not self.ended:
                self.on_failed(f"the session failed: {type(error).__name__}")
        except asyncio.CancelledError:
            stream.cancel()  # type: ignore[no-untyped-call]
            raise
        else:
            if not self._first.done():
                self._first.set_exception(RayServeException("the session gave up before the call began"))


async def _items(stream: DeploymentResponseGenerator[Any]) -> AsyncIterator[dict[str, Any]]:
    async for item in stream:
        yield item
