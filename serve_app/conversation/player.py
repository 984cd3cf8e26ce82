"""Drives the playout: frames to the network at the right time, what was played to the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.clock import Clock
from serve_app.conversation.ledger import Spoken
from serve_app.conversation.playout import Mark, Notice, Playout
from serve_app.telephony.base import Leg, MediaPort, WireMessage


class Player:
    """One task per call. It sleeps between bursts and while nothing is to be said."""

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
        self._kicked = asyncio.Event()

    def kick(self) -> None:
        """Something changed in the playout: look at once."""
        self._kicked.set()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            # Cleared first: what arrives while this pass sends is seen by the next one.
            self._kicked.clear()
            now = self._clock.monotonic()
            self._send(now)
            self._report()
            delay = self._playout.next_wake(now)
            # A bare timer costs less than asyncio.timeout, 17 times a second in every call that speaks.
            timer = None if delay is None else loop.call_later(delay, self._kicked.set)
            try:
                await self._kicked.wait()
            finally:
                if timer is not None:
                    timer.cancel()

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
        if sounding and (message := self._leg.clear()) is not None:
            self._port.send(message)
        self._report()
        self.kick()
        return spoken
