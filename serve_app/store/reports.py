"""What processes say about themselves every second, for scaling decisions, `/metrics` and benchmarks.

A report is valid for a few seconds and replaced by the next; a process that dies is forgotten with its last one.
"""

from __future__ import annotations

import json
from typing import Any

from serve_app.store import redis_scripts as scripts
from serve_app.store.live import LiveState

REPORT_TTL_S = 3.0

LOAD = "load"
"""Of a replica: `role`, `lag_p95_ms`, `lag_max_ms`, and for sessions `calls`, `capacity`, `offered`."""
VITALS = "vitals"
"""Of a replica: `deployment`, `pid`, `calls_open`, `calls_held`, `calls_begun`, `tasks`, `fds`, `threads`, `rss_bytes`,
`task_kinds` (coroutine -> tasks of it), `collect_ms` (the last full garbage collection).
"""
DEMAND = "demand"
"""Of a dialer: `waiting`, the calls that could be placed now if slots were free."""


class Reports:
    """Reports of one kind. Every method raises UnavailableError."""

    def __init__(self, live: LiveState, kind: str) -> None:
        self._live = live
        self._keys = [f"parley:{kind}:beats", f"parley:{kind}"]
        self._put = live.client.register_script(scripts.REPORT)
        self._valid = live.client.register_script(scripts.VALID_REPORTS)

    async def put(self, member: str, report: dict[str, Any], ttl_s: float = REPORT_TTL_S) -> None:
        with self._live.reachable():
            await self._put(keys=self._keys, args=[member, json.dumps(report), max(1, round(ttl_s * 1000))])

    async def drop(self, member: str) -> None:
        with self._live.reachable():
            async with self._live.client.pipeline(transaction=True) as pipe:
                pipe.zrem(self._keys[0], member)
                pipe.hdel(self._keys[1], member)
                await pipe.execute()

    async def all(self) -> dict[str, dict[str, Any]]:
        """member -> its report, of those that are valid now."""
        with self._live.reachable():
            flat = await self._valid(keys=self._keys)
        return {member: json.loads(report) for member, report in zip(flat[::2], flat[1::2], strict=True)}
