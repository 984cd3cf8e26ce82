"""Drives the playout: frames to the network at the right time, what was played to the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.clock import Clock
from serve_app.conversation.far_marks import Mark
from serve_app.conversation.ledger import Spoken
from serve_app.conversation.playout import Notice, Playout
from serve_app.telephony.base import Leg, MediaPort, WireMessage


class Player:
    """Timers and kicks, no task of its own to wake: a dozen times a second that cost more than what it then did."""

    def __init__(
        self,
        playout: Playout,
        leg: Leg,
        port: MediaPort,
        *,
        clock: Clock,
        on_notice: Callable[[Notice], None],
        on_played: Callable[[bytes, float], None],
    ) -> None:
        self._playout = playout
        self._leg = leg
        self._port = port
        self._clock = clock
        self._on_notice = on_notice
        self._on_played = on_played
        self._over: asyncio.Future[None] | None = None
        """Set while `run` runs."""
        self._next: asyncio.Handle | None = None
        self._soon = False
        """Whether `_next` is due in the loop's next pass."""

    def kick(self) -> None:
        """Something changed in the playout: look in the loop's next pass."""
        if self._over is not None and not self._soon:
            self._schedule(0.0)

    async def run(self) -> None:
        """Until cancelled. A fault in a pass is raised here."""
        self._over = asyncio.get_running_loop().create_future()
        self._pass()
        try:
            await self._over
        finally:
            self._over = None
            self._schedule(None)

    def _pass(self) -> None:
        self._next, self._soon = None, False
        now = self._clock.monotonic()
        try:
            self._send(now)
            self._report()
            delay_s = self._playout.next_wake(now)
        except Exception as error:  # noqa: BLE001  handed to `run`, which ends the call's task group
            if self._over is not None and not self._over.done():
                self._over.set_exception(error)
            return
        if not self._soon:
            self._schedule(delay_s)

    def _schedule(self, delay_s: float | None) -> None:
        if self._next is not None:
            self._next.cancel()
        self._soon = delay_s == 0.0
        loop = asyncio.get_running_loop()
        if delay_s is None:
            self._next = None
        else:
            self._next = loop.call_soon(self._pass) if self._soon else loop.call_later(delay_s, self._pass)

    def _send(self, now: float) -> None:
        messages: list[WireMessage] = []
        for item in self._playout.tick(now):
            message = self._leg.mark(item.id) if isinstance(item, Mark) else self._leg.play(item)
            if message is not None:
                messages.append(message)
        if messages:
            self._port.send(*messages)

    def _report(self) -> None:
        for played in self._playout.take_played():
            self._on_played(played.frame, played.at)
        for notice in self._playout.take_notices():
            self._on_notice(notice)

    def clear(self) -> list[Spoken]:
        """Stop at once, in the network's buffer too. Returns what became of every utterance that was not over."""
        now = self._clock.monotonic()
        sounding = self._playout.may_sound(now)
        spoken = self._playout.interrupt(now)
        self._silence(sounding)
        return spoken

    def hold(self) -> None:
        """Be silent at once, in the network's buffer too, and keep what was not heard for `release`, or for `clear`."""
        now = self._clock.monotonic()
        sounding = self._playout.may_sound(now)
        self._playout.hold(now)
        self._silence(sounding)

    def release(self) -> None:
        """Go on with the word at which `hold` stopped."""
        self._playout.release(self._clock.monotonic())
        self.kick()

    def _silence(self, sounding: bool) -> None:
        if sounding and (message := self._leg.clear()) is not None:
            self._port.send(message)
        self._report()
        self.kick()
