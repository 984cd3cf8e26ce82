"""A leg worker as an asyncio program uses it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.legs.results import LegResult, Load, TurnFigures, lost

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0
MAX_EVENT_BYTES = 8 << 20
OnTurn = Callable[[str, TurnFigures], None]


class WorkerError(Exception):
    """The worker did not start, or refused an order."""


class LegWorker:
    """One worker process. `start` it, `call` from as many tasks as wanted, `close` it."""

    def __init__(self, process: asyncio.subprocess.Process, on_turn: OnTurn | None) -> None:
        self._process = process
        self._on_turn = on_turn
        self._results: dict[str, asyncio.Future[LegResult]] = {}
        self._asked_at: dict[str, float] = {}
        self._prepared: asyncio.Future[None] | None = None
        self._numbers = itertools.count(1)
        self.loads: list[Load] = []
        """One entry per second since the start."""
        self.problems: list[str] = []
        """Orders that the worker refused."""
        self._reader = asyncio.create_task(self._read(), name="leg worker events")

    @classmethod
    async def start(
        cls,
        *,
        command_prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        on_turn: OnTurn | None = None,
    ) -> LegWorker:
        """`command_prefix`: what pins it, as `taskset -c 1`. `on_turn(call id, figures)` is called during calls."""
        process = await asyncio.create_subprocess_exec(
            *command_prefix, sys.executable, "-m", "load_tests.legs",
            cwd=ROOT, env={**os.environ, **(environment or {})}, limit=MAX_EVENT_BYTES,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        worker = cls(process, on_turn)
        try:
            await worker.prepare(())
        except BaseException:
            await worker.close()
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def prepare(self, texts: Sequence[str], *, voice: str = "callee-en", sample_rate_hz: int = 16000) -> None:
        """Have these texts spoken before the first call. Raises WorkerError."""
        self._prepared = asyncio.get_running_loop().create_future()
        self._order({"op": "prepare", "texts": list(texts), "voice": voice, "sample_rate_hz": sample_rate_hz})
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._prepared
        except TimeoutError as error:
            raise WorkerError("the leg worker did not answer in time") from error

    async def call(self, opening: Mapping[str, Any], script: Mapping[str, Any], *, id: str | None = None) -> LegResult:
        """Hold one call to its end. Does not raise for one that fails. Cancelling hangs up."""
        call_id = id or f"leg-{next(self._numbers)}"
        if call_id in self._results:
            raise WorkerError(f"there is a call {call_id!r} already")
        future: asyncio.Future[LegResult] = asyncio.get_running_loop().create_future()
        self._results[call_id], self._asked_at[call_id] = future, time.monotonic()
        try:
            self._order({"op": "call", "id": call_id, "open": dict(opening), "script": dict(script)})
            return await future
        except asyncio.CancelledError:
            self.hang_up(call_id)
            raise
        finally:
            self._results.pop(call_id, None)
            self._asked_at.pop(call_id, None)

    def hang_up(self, call_id: str) -> None:
        """The callee of this call hangs up; whoever waits in `call` gets its figures."""
        self._order({"op": "hang_up", "id": call_id})

    async def close(self) -> None:
        """Cut what is up and end the process. Idempotent."""
        if self._process.returncode is None:
            self._order({"op": "end"})
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
        await self._reader
        await self._process.wait()

    def _order(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._handle(json.loads(line))
        for call_id, future in list(self._results.items()):
            self._resolve(future, lost(call_id, self._asked_at[call_id], time.monotonic(), "the leg worker ended"))
        if self._prepared is not None and not self._prepared.done():
            self._prepared.set_exception(WorkerError("the leg worker ended; its standard error says why"))

    def _handle(self, event: dict[str, Any]) -> None:
        kind, call_id = event["event"], event.get("id")
        if kind == "load":
            self.loads.append(Load.model_validate(event))
        elif kind == "turn" and self._on_turn is not None and call_id in self._results:
            # Else the call was cancelled here: a turn that was cut with it says nothing about the platform.
            self._on_turn(str(call_id), TurnFigures.model_validate(event))
        elif kind == "prepared" and self._prepared is not None and not self._prepared.done():
            self._prepared.set_result(None)
        elif kind == "bad_order":
            self.problems.append(event["error"])
            if call_id is None and self._prepared is not None and not self._prepared.done():
                self._prepared.set_exception(WorkerError(event["error"]))
        if call_id not in self._results:
            return
        if kind == "over":
            self._resolve(self._results[call_id], LegResult.model_validate(event))
        elif kind in ("crashed", "bad_order"):
            error = lost(call_id, self._asked_at[call_id], time.monotonic(), event["error"])
            self._resolve(self._results[call_id], error)

    @staticmethod
    def _resolve(future: asyncio.Future[LegResult], result: LegResult) -> None:
        if not future.done():
            future.set_result(result)
