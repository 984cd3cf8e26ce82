"""Callers who call again and again: a fixed number of concurrent calls whose turns do not coincide."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence

from load_tests.callbench.records import Call
from load_tests.callbench.scenario import TURNS, Turn

PlaceCall = Callable[[str, Sequence[Turn]], Awaitable[Call]]
"""Holds one call under this id with these turns, from asking to the end. Does not raise for a call that fails."""

RETRY_S = 5.0
"""A caller who was refused, or lost, calls again after this: an overloaded system is not hammered as well."""
_GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo 1, lie evenly in [0, 1) however many there are."""


def phase(number: int) -> float:
    """Where in a call's length the caller `number` stands, in [0, 1)."""
    return number * _GOLDEN % 1.0


def first_turns(number: int) -> Sequence[Turn]:
    """Of this caller's first call: its beginning only, so that callers who begin together do not call again together.

    The lengths are spread as the rests of calls are that somebody finds up at any moment.
    """
    return TURNS[: 1 + math.floor(phase(number) * len(TURNS))]


class Callers:
    """Keeps `wanted` calls up."""

    def __init__(self, place_call: PlaceCall, *, on_over: Callable[[Call], None]) -> None:
        self._place_call = place_call
        self._on_over = on_over
        self._wanted = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._placed = 0

    def want(self, calls: int, *, within_s: float) -> None:
        """From now on. New callers begin one after another `within_s`."""
        self._wanted = calls
        new = [number for number in range(calls) if number not in self._tasks or self._tasks[number].done()]
        for place, number in enumerate(new):
            wait_s = within_s * (place + 0.5) / len(new)
            self._tasks[number] = asyncio.create_task(self._caller(number, wait_s), name=f"caller {number}")

    async def over(self, timeout_s: float) -> None:
        """Ask for no more calls and wait until those that are up are over; those that stay longer are given up."""
        self._wanted = 0
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Raises what ended a caller: that is a fault of the benchmark, not of a call."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled():
                task.result()

    async def _caller(self, number: int, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        turns = first_turns(number)
        while number < self._wanted:
            self._placed += 1
            began = time.monotonic()
            call = await self._place_call(f"c{number}-{self._placed}", turns)
            self._on_over(call)
            turns = TURNS
            if call.error is not None:
                await asyncio.sleep(max(0.0, began + RETRY_S - time.monotonic()))
