"""What processes say about themselves every second, for scaling decisions, `/metrics` and benchmarks.

A report is valid for a few seconds and replaced by the next; a process that dies is forgotten with its last one.
"""

from __future__ import annotations

import json
from typing import Any

from serve_app.store import redis_scripts as scripts
from serve_app.store.live import LiveState
from serve_app.store.slots import REPLICAS, SLOTS

REPORT_TTL_S = 3.0

LOAD = "load"
"""Of a replica: `role`, `lag_p95_ms`, `lag_max_ms`, and for sessions `calls`, `capacity`, `offered`."""
VITALS = "vitals"
"""Of a replica: `deployment`, `pid`, `calls_open`, `calls_held`, `calls_begun`, `tasks`, `fds`, `threads`, `rss_bytes`,
`task_kinds` (coroutine -> tasks of it), `collect_ms` (the last full garbage collection).
"""
TURNS = "turns"
"""Of a session replica: what it counted of its calls since it began (`serve_app.metrics.session_report`)."""
DEMAND = "demand"
"""Of a dialer: `waiting`, the calls that could be placed now if slots were free."""


class Reports:
    """Reports of one kind. Every method raises UnavailableError."""

    def __init__(self, live: LiveState, kind: str) -> None:
        self._live = live
        self._keys = _keys(kind)
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
        return _read(flat)


class SessionBeat:
    """What a session replica says and asks every second, in one round trip."""

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self._keys = [*REPLICAS, SLOTS, *_keys(LOAD), *_keys(DEMAND)]
        self._beat = live.client.register_script(scripts.SESSION_BEAT)

    async def beat(
        self, replica: str, slots: int | None, report: dict[str, Any], ttl_s: float = REPORT_TTL_S
    ) -> tuple[int, dict[str, dict[str, Any]]]:
        """Offer `slots` (None: the replica takes no more calls) and report the load, both valid for `ttl_s`.

        Returns the slots in use on the whole platform, and every dialer's report of its demand. Raises
        UnavailableError.
        """
        ttl_ms = max(1, round(ttl_s * 1000))
        offer: list[str | int] = [replica, 0, 0] if slots is None else [replica, slots, ttl_ms]
        with self._live.reachable():
            used, demand = await self._beat(
                keys=self._keys, args=[*offer, f"sessions:{replica}", json.dumps(report), ttl_ms]
            )
        return int(used), _read(demand)


def _keys(kind: str) -> list[str]:
    return [f"parley:{kind}:beats", f"parley:{kind}"]


def _read(flat: list[str]) -> dict[str, dict[str, Any]]:
    return {member: json.loads(report) for member, report in zip(flat[::2], flat[1::2], strict=True)}
