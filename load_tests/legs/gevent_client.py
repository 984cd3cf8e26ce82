"""A leg worker as a gevent program (Locust) uses it: a call blocks its greenlet, never the loop."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
from gevent import subprocess
from gevent.event import AsyncResult

from load_tests.legs.results import LegResult, Load, TurnFigures, lost

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
END_TIMEOUT_S = 5.0


class GeventLegWorker:
    """One worker process. `on_turn(call id, figures)` and `on_load(load)` are called from its reader's greenlet."""

    def __init__(
        self,
        *,
        texts: Sequence[str] = (),
        on_turn: Callable[[str, TurnFigures], None] | None = None,
        on_load: Callable[[Load], None] | None = None,
    ) -> None:
        """Start the process and have `texts` spoken. Raises RuntimeError."""
        self._on_turn, self._on_load = on_turn, on_load
        self._results: dict[str, AsyncResult] = {}
        self._asked_at: dict[str, float] = {}
        self._numbers = itertools.count(1)
        self._prepared = AsyncResult()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "load_tests.legs"],
            cwd=ROOT,
            # The worker is no gevent program, and must not inherit what makes one.
            env={name: value for name, value in os.environ.items() if not name.startswith("GEVENT")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._reader = gevent.spawn(self._read)
        self._order({"op": "prepare", "texts": list(texts)})
        try:
            self._prepared.get(timeout=START_TIMEOUT_S)
        except gevent.Timeout as error:
            self.close()
            raise RuntimeError("the leg worker did not start in time") from error

    def call(self, opening: Mapping[str, Any], script: Mapping[str, Any]) -> LegResult:
        """Hold one call to its end. A killed greenlet hangs up."""
        call_id = f"leg-{next(self._numbers)}"
        result = self._results[call_id] = AsyncResult()
        self._asked_at[call_id] = time.monotonic()
        try:
            self._order({"op": "call", "id": call_id, "open": dict(opening), "script": dict(script)})
            found: LegResult = result.get()
            return found
        except gevent.GreenletExit:
            self._order({"op": "hang_up", "id": call_id})
            raise
        finally:
            self._results.pop(call_id, None)
            self._asked_at.pop(call_id, None)

    def close(self) -> None:
        """Cut what is up and end the process. Idempotent."""
        if self._process.poll() is None:
            self._order({"op": "end"})
            try:
                self._process.wait(timeout=END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(timeout=END_TIMEOUT_S)

    def _order(self, order: Mapping[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            return  # the reader tells everybody who waits that the worker is gone

    def _read(self) -> None:
        buffer = b""
        while chunk := self._process.stdout.read(1 << 16):
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                self._handle(json.loads(line))
        for call_id, result in list(self._results.items()):
            result.set(lost(call_id, self._asked_at[call_id], time.monotonic(), "the leg worker ended"))
        if not self._prepared.ready():
            self._prepared.set_exception(RuntimeError("the leg worker ended; its standard error says why"))

    def _handle(self, event: dict[str, Any]) -> None:
        kind, call_id = event["event"], event.get("id")
        if kind == "load" and self._on_load is not None:
            self._on_load(Load.model_validate(event))
        elif kind == "turn" and self._on_turn is not None and call_id in self._results:
            # Else the caller has gone: a turn that was cut with its call says nothing about the platform.
            self._on_turn(str(call_id), TurnFigures.model_validate(event))
        elif kind == "prepared" and not self._prepared.ready():
            self._prepared.set(None)
        if call_id not in self._results:
            return
        if kind == "over":
            self._results[call_id].set(LegResult.model_validate(event))
        elif kind in ("crashed", "bad_order"):
            self._results[call_id].set(lost(call_id, self._asked_at[call_id], time.monotonic(), event["error"]))
