"""The worker's process: orders as JSON lines in, events as JSON lines out.

Orders: `call`, `prepare`, `hang_up`, `end` (`documents.py`). Events, with the call's `id`: `connected`; `turn`, once
the turn after it begins; `over`, the last one, with every figure of the call (`figures.py`), or `crashed`. Without an
id: `prepared`; `bad_order`; `load` once a second: the engine's own lateness, the process's CPU seconds so far, and how
many legs are up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter, ValidationError

from load_tests.legs.calls import HttpClients, WorkerCall
from load_tests.legs.documents import CallOrder, EndOrder, HangUpOrder, Order, PrepareOrder
from serve_app.simulators.speech import speak_async
from serve_app.simulators.ticker import Ticker

LOAD_EVERY_S = 1.0
MAX_ORDER_BYTES = 1 << 20
_ORDER: TypeAdapter[Order] = TypeAdapter(Order)


class Worker:
    """All calls of one process. `write` takes one line, without its end."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._http = HttpClients()
        self._calls: dict[str, tuple[WorkerCall, asyncio.Task[None]]] = {}

    async def run(self, orders: asyncio.StreamReader) -> None:
        """Until `end`, or the end of the orders. Calls that are up then are cut."""
        reporting = asyncio.create_task(self._report_load())
        try:
            while line := await orders.readline():
                if line.strip() and not await self._obey(line):
                    break
        finally:
            reporting.cancel()
            tasks = [task for _, task in self._calls.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._http.close()

    async def _obey(self, line: bytes) -> bool:
        """False: it was the last order."""
        try:
            order = _ORDER.validate_json(line)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            self._emit({"event": "bad_order", "error": json.dumps(problems, default=str), **_id_of(line)})
            return True
        if isinstance(order, EndOrder):
            return False
        if isinstance(order, PrepareOrder):
            for text in order.texts:
                await speak_async(text, voice=order.voice, rate_hz=order.sample_rate_hz)
            self._emit({"event": "prepared", "texts": len(order.texts)})
        elif isinstance(order, HangUpOrder):
            if order.id in self._calls:
                self._calls[order.id][0].hang_up()
        else:
            self._start(order)
        return True

    def _start(self, order: CallOrder) -> None:
        if order.id in self._calls:
            self._emit({"event": "bad_order", "id": order.id, "error": f"there is a call {order.id!r} already"})
            return
        call = WorkerCall(order, self._emit, self._http)
        task = asyncio.create_task(call.run(), name=f"call {order.id}")
        self._calls[order.id] = (call, task)
        task.add_done_callback(lambda done: self._over(order.id, done))

    def _over(self, call_id: str, task: asyncio.Task[None]) -> None:
        self._calls.pop(call_id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits for the call must hear of it.
            self._emit({"id": call_id, "event": "crashed", "error": f"{type(error).__name__}: {error}"})

    async def _report_load(self) -> None:
        ticker = Ticker.of_running_loop()
        while True:
            await asyncio.sleep(LOAD_EVERY_S)
            late = ticker.take_lateness()
            self._emit(
                {
                    "event": "load",
                    "at": time.monotonic(),
                    "lateness_p99_ms": round(late.quantile_ms(0.99), 3),
                    "lateness_max_ms": round(late.max_ms, 3),
                    "lateness_buckets": late.buckets(),
                    "cpu_s": time.process_time(),
                    "legs": len(self._calls),
                }
            )

    def _emit(self, event: dict[str, Any]) -> None:
        self._write(json.dumps(event, separators=(",", ":")))


def _id_of(line: bytes) -> dict[str, str]:
    """Whose order it was, where that can be read: somebody waits for that call."""
    with contextlib.suppress(ValueError):
        document = json.loads(line)
        if isinstance(document, dict) and isinstance(document.get("id"), str):
            return {"id": document["id"]}
    return {}


async def serve_standard_streams() -> None:
    """Run a worker on this process's standard input and output."""
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader(limit=MAX_ORDER_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    try:

        def write(line: str) -> None:
            # A reader that stops reading must not stop the frames: the transport keeps what the pipe does not take.
            if not transport.is_closing():
                transport.write(line.encode() + b"\n")

        await Worker(write).run(orders)
    finally:
        with contextlib.suppress(Exception):
            transport.close()
