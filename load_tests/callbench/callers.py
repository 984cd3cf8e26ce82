"""Callers who call again and again: a fixed number of concurrent calls whose turns do not coincide."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from load_tests.callbench.records import Call

PlaceCall = Callable[[str], Awaitable[Call]]
"""Holds one call under this id, from asking to the end. Does not raise for a call that fails."""

RETRY_S = 5.0
"""A caller who was refused, or lost, calls again after this: an overloaded system is not hammered as well."""
_GOLDEN = 0.6180339887498949
"""Multiples of the golden ratio, modulo 1, lie evenly in [0, 1) however many there are."""


def phase(number: int) -> float:
    """Where in a call's length the caller `number` begins, in [0, 1)."""
    return number * _GOLDEN % 1.0


class Callers:
    """Keeps `wanted` calls up. Growing takes one call's length, so does shrinking: nobody is cut off."""

    def __init__(self, place_call: PlaceCall, *, call_s: float, on_over: Callable[[Call], None]) -> None:
        self._place_call = place_call
        self._call_s = call_s
        self._on_over = on_over
        self._wanted = 0
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._placed = 0

    def want(self, calls: int) -> None:
        """From now on. Takes full effect after `call_s`."""
        self._wanted = calls
        for number in range(calls):
            if number not in self._tasks or self._tasks[number].done():
                self._tasks[number] = asyncio.create_task(self._caller(number), name=f"caller {number}")

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

    async def _caller(self, number: int) -> None:
        await asyncio.sleep(phase(number) * self._call_s)
        while number < self._wanted:
            self._placed += 1
            began = time.monotonic()
            call = await self._place_call(f"c{number}-{self._placed}")
            self._on_over(call)
            if call.error is not None:
                await asyncio.sleep(max(0.0, began + RETRY_S - time.monotonic()))
