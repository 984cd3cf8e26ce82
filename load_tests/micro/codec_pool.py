"""`make bench-codec`: why a live frame is never sent to CodecPool. Real Ray Serve, two replicas, handle calls between.

A 20 ms frame (mu-law 8 kHz -> linear 16 kHz) of every call, at 50 frames a second and call, is transcoded
(a) in the caller's own process, (b) by one handle call per frame, (c) by one handle call per 20 ms tick with the frames
of all calls. A pool is stateless, so (b) and (c) carry the frame before along as the resampler's history.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
import soxr
from ray import serve
from ray.serve.handle import DeploymentHandle
from rich.console import Console
from rich.table import Table

from load_tests.micro.audio import tone
from serve_app.audio import g711
from serve_app.audio.resample import StreamResampler, to_linear16

TICK_S = 0.02
DRAIN_S = 2.0
"""How long late answers are waited for after the last tick."""
IDLE_S = 1.5
AIM_US = 40.0
"""In process: at 100 calls and both directions, 40 us per frame are 40 % of a core; beyond that the pool would pay."""
MODES = ("in process", "one call per frame", "one call per tick")
OUT = Path("load_tests/results/codec_pool/result.json")


@dataclass(frozen=True, slots=True)
class Row:
    """One mode at one number of calls. CPU per frame that was done, the idle base of each process subtracted."""

    mode: str
    calls: int
    frames: int
    done: int
    in_time: int
    """Within a frame's length of 20 ms: later ones make the callee wait."""
    caller_us: float
    pool_us: float
    p50_ms: float
    p99_ms: float


def transcode_with_history(history: bytes, frame: bytes) -> bytes:
    """One frame without state: the frame before is resampled again and cut off."""
    linear = np.frombuffer(g711.mulaw_decode(history + frame), dtype="<i2").astype(np.float32)
    return to_linear16(soxr.resample(linear, 8000, 16000)[2 * len(history) :]).astype("<i2", copy=False).tobytes()


@serve.deployment(name="Pool", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
class Pool:
    """Transcodes what it is given."""

    async def transcode(self, frames: list[tuple[bytes, bytes]]) -> list[bytes]:
        return [transcode_with_history(history, frame) for history, frame in frames]

    async def cpu_s(self) -> float:
        return time.process_time()


@serve.deployment(name="Caller", max_ongoing_requests=10, ray_actor_options={"num_cpus": 0})
class Caller:
    """The process whose calls need transcoding."""

    def __init__(self, pool: DeploymentHandle[Any]) -> None:
        self._pool = pool
        self._frame = g711.mulaw_encode(tone(8000))
        self._done_ms: list[float] = []

    async def measure(self, mode: str, calls: int, seconds: float) -> dict[str, Any]:
        """Run one row. Ticks are absolute: an answer's time counts from when its tick was due."""
        self._done_ms = []
        streams = [StreamResampler(8000, 16000) for _ in range(calls)]
        pool_base, own_base = await self._idle_cpu()
        pool_before, own_before, began = await self._pool.cpu_s.remote(), time.process_time(), time.perf_counter()
        waiting: set[asyncio.Task[None]] = set()
        first = time.perf_counter()
        ticks = int(seconds / TICK_S)
        for tick in range(ticks):
            due = first + tick * TICK_S
            if time.perf_counter() > first + seconds + DRAIN_S:
                break  # hopelessly behind: the frames that were not even asked for count as not done
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if mode == "in process":
                for stream in streams:
                    stream.process(g711.mulaw_decode(self._frame))
                    self._done_ms.append((time.perf_counter() - due) * 1000)
                continue
            batches = [calls] if mode == "one call per tick" else [1] * calls
            for size in batches:
                task = asyncio.create_task(self._ask(size, due))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
        if waiting:
            await asyncio.wait(waiting, timeout=DRAIN_S)
        for task in list(waiting):
            task.cancel()
        took_s = time.perf_counter() - began
        own_s = time.process_time() - own_before - own_base * took_s
        in_time = sum(ms <= TICK_S * 1000 for ms in self._done_ms)
        done = np.array(self._done_ms or [float("nan")])
        pool_s = await self._pool.cpu_s.remote() - pool_before - pool_base * took_s
        count = max(1, len(self._done_ms))
        row = Row(
            mode=mode,
            calls=calls,
            frames=ticks * calls,
            done=len(self._done_ms),
            in_time=in_time,
            caller_us=max(0.0, own_s) / count * 1e6,
            pool_us=max(0.0, pool_s) / count * 1e6,
            p50_ms=float(np.percentile(done, 50)),
            p99_ms=float(np.percentile(done, 99)),
        )
        return asdict(row)

    async def _idle_cpu(self) -> tuple[float, float]:
        """CPU seconds per second that (pool, caller) use while nothing is asked: Ray's own threads."""
        pool_before, own_before = await self._pool.cpu_s.remote(), time.process_time()
        await asyncio.sleep(IDLE_S)
        pool_after, own_after = await self._pool.cpu_s.remote(), time.process_time()
        return (pool_after - pool_before) / IDLE_S, (own_after - own_before) / IDLE_S

    async def _ask(self, size: int, due: float) -> None:
        await self._pool.transcode.remote([(self._frame, self._frame)] * size)
        self._done_ms += [(time.perf_counter() - due) * 1000] * size


def run(calls: list[int], seconds: float) -> list[Row]:
    # As serve_config.yaml has it: one event loop per replica, and quiet logs on the request path.
    os.environ.update(
        {
            "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
            "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
            "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
    )
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        # Handles only: no proxy, so no port is taken.
        serve.start(proxy_location="Disabled", logging_config={"enable_access_log": False, "log_level": "WARNING"})
        caller = serve.run(_bind(Caller, _bind(Pool)), name="bench", route_prefix=None)
        caller.measure.remote("one call per frame", 1, 1.0).result(timeout_s=60)  # warm
        rows = []
        for mode in MODES:
            for count in calls:
                answer = caller.measure.remote(mode, count, seconds).result(timeout_s=seconds * 4 + 60)
                rows.append(Row(**answer))
        return rows
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def _bind(deployment: Any, *args: object) -> serve.Application:
    # `serve.deployment` turns a class into a Deployment, which its type annotations do not say.
    bound: serve.Application = deployment.bind(*args)
    return bound


def show(rows: list[Row]) -> None:
    table = Table(title="A 20 ms frame, mu-law 8 kHz -> linear 16 kHz", title_justify="left")
    for column in ("mode", "calls", "done", "in time", "caller us", "pool us", "p50 ms", "p99 ms", ""):
        table.add_column(column, justify="left" if column in ("mode", "") else "right", no_wrap=True)
    most = max(row.calls for row in rows)
    for row in rows:
        # At fewer calls the wake-up of the tick itself, which every mode pays, is shared by fewer frames.
        judged = row.mode == MODES[0] and row.calls == most
        verdict = ("PASS" if row.caller_us <= AIM_US else "MISS") if judged else ""
        table.add_row(
            row.mode,
            str(row.calls),
            f"{row.done / row.frames:.0%}",
            f"{row.in_time / row.frames:.0%}",
            f"{row.caller_us:.0f}",
            f"{row.pool_us:.0f}",
            f"{row.p50_ms:.1f}",
            f"{row.p99_ms:.1f}",
            verdict,
        )
    console = Console(width=max(Console().width, 100))
    console.print(table)
    console.print(
        f"aim: at most {AIM_US:g} us of CPU per frame in process; the other rows say what a handle call costs"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", default="10,100", help="numbers of calls, comma-separated")
    parser.add_argument("--seconds", type=float, default=5.0, help="per row")
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    rows = run([int(number) for number in chosen.calls.split(",")], chosen.seconds)
    show(rows)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": platform.platform(), "cpus": os.cpu_count(), "ray": ray.__version__}
    chosen.out.write_text(json.dumps({**result, "rows": [asdict(row) for row in rows]}, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
