"""The named timers of one call: the turn machine sets and cancels them, an expired one becomes an event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.conversation.turn_types import TimerFired, TimerName, TurnEvent


class CallTimers:
    """At most one timer of each name."""

    def __init__(self, post: Callable[[TurnEvent], None]) -> None:
        self._post = post
        self._handles: dict[TimerName, asyncio.TimerHandle] = {}
        self._due: set[TimerName] = set()

    def set(self, name: TimerName, seconds: float) -> None:
        """Start or restart."""
        self.cancel(name)
        self._handles[name] = asyncio.get_running_loop().call_later(seconds, self._fire, name)

    def cancel(self, name: TimerName) -> None:
        self._due.discard(name)
        if (handle := self._handles.pop(name, None)) is not None:
            handle.cancel()

    def cancel_all(self) -> None:
        for name in list(self._handles):
            self.cancel(name)

    def _fire(self, name: TimerName) -> None:
        self._handles.pop(name, None)
        self._due.add(name)
        self._post(TimerFired(name))

    def still_due(self, event: TimerFired) -> bool:
        """False for a timer that was cancelled, or set again, after it fired and before its event was handled."""
        due = event.name in self._due
        self._due.discard(event.name)
        return due
