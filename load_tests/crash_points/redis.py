"""What the dialer, the feeder and the webhooks use of `LiveState`, on simulated time; it forgets all when told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from load_tests.crash_points.processes import exchange
from serve_app.clock import Clock
from serve_app.store.live import RATE_MARGIN
from serve_app.store.slots import SESSIONS, Scope

REPLICA_BEAT_S = 1.0


class SimulatedRedis:
    """`sessions`: how many calls the session replicas hold at once; they say so again a moment after `flush`."""

    def __init__(self, clock: Clock, sessions: int) -> None:
        self._clock = clock
        self._sessions = sessions
        self.client = _Scripts()
        self.flush(back_after_s=0)

    def flush(self, *, back_after_s: float = REPLICA_BEAT_S) -> None:
        """FLUSHALL."""
        self._slots: dict[str, float] = {}
        self._places: dict[str, frozenset[str]] = {}
        self._kept: dict[str, tuple[str, float]] = {}
        self._leases: dict[str, tuple[float, float]] = {}
        self._rates_s: dict[str, float] = {}
        self._capacity_from = self._clock.monotonic() + back_after_s

    def reachable(self) -> AbstractContextManager[None]:
        return nullcontext()

    async def capacity(self) -> tuple[int, int]:
        return await exchange("redis", lambda: (self._total(), len(self._held())))

    async def reserve_in(self, scopes: Sequence[Scope], slot_id: str, ttl_s: float) -> str | None:
        return await exchange("redis", lambda: self._take({s.name: s.most for s in scopes}, slot_id, ttl_s))

    async def reserve(self, slot_id: str, ttl_s: float, scopes: Sequence[str] = ()) -> bool:
        return await exchange("redis", lambda: self._take(dict.fromkeys(scopes), slot_id, ttl_s)) is None

    def _take(self, scopes: Mapping[str, int | None], slot_id: str, ttl_s: float) -> str | None:
        held = self._held()
        for name, most in scopes.items():
            places = [slot for slot in held if name in self._places[slot]]
            if most is not None and slot_id not in places and len(places) >= most:
                return name
        if slot_id not in held and len(held) >= self._total():
            return SESSIONS
        held[slot_id] = self._clock.monotonic() + ttl_s
        self._places[slot_id] = frozenset(scopes)
        return None

    async def release(self, slot_id: str) -> None:
        await exchange("redis", lambda: self._slots.pop(slot_id, None))

    async def throttle(self, key: str, per_second: float, *, longest_s: float | None = None) -> float:
        def next_slot() -> float:
            now = self._clock.monotonic()
            wait_s = max(0.0, self._rates_s.get(key, 0.0) - now)
            if longest_s is None or wait_s <= longest_s:
                self._rates_s[key] = now + wait_s + RATE_MARGIN / per_second
            return wait_s

        return await exchange("redis", next_slot)

    async def put_media_token(self, token: str, payload: str, ttl_s: float) -> None:
        await exchange("redis", lambda: self._keep(token, payload, ttl_s))

    async def take_media_token(self, token: str) -> str | None:
        return await exchange("redis", lambda: self._kept.pop(token, (None, 0.0))[0])

    async def remember_answer(self, key: str, value: str, ttl_s: float) -> str:
        def first() -> str:
            kept = self._recall(key)
            if kept is None:
                self._keep(key, value, ttl_s)
            return kept or value

        return await exchange("redis", first)

    async def recalled_answer(self, key: str) -> str | None:
        return await exchange("redis", lambda: self._recall(key))

    async def publish(self, _call_id: str, *_events: dict[str, Any]) -> None:
        await exchange("redis", lambda: None)

    def lease(self, call_id: str, ttl_s: float) -> None:
        """A session holds the call."""
        now = self._clock.monotonic()
        self._leases[call_id] = now + ttl_s, self._clock.now().timestamp()

    async def leased_calls(self) -> dict[str, dict[str, Any]]:
        now = self._clock.monotonic()
        return await exchange("redis", lambda: {call: {} for call, (until, _) in self._leases.items() if until > now})

    async def last_beat(self, call_id: str) -> tuple[datetime, dict[str, Any]] | None:
        def seen() -> tuple[datetime, dict[str, Any]] | None:
            lease = self._leases.get(call_id)
            return None if lease is None else (datetime.fromtimestamp(lease[1], UTC), {})

        return await exchange("redis", seen)

    async def drop_call(self, call_id: str, _epoch: int) -> bool:
        return await exchange("redis", lambda: self._leases.pop(call_id, None) is not None)

    def _total(self) -> int:
        return self._sessions if self._clock.monotonic() >= self._capacity_from else 0

    def _held(self) -> dict[str, float]:
        now = self._clock.monotonic()
        self._slots = {slot: until for slot, until in self._slots.items() if until > now}
        return self._slots

    def _keep(self, key: str, value: str, ttl_s: float) -> None:
        self._kept[key] = value, self._clock.monotonic() + ttl_s

    def _recall(self, key: str) -> str | None:
        value, until = self._kept.get(key, (None, 0.0))
        return value if until > self._clock.monotonic() else None


class _Scripts:
    """The reports of processes about themselves: there are none."""

    def register_script(self, _script: str) -> Any:
        async def ignore(**_arguments: Any) -> list[str]:
            return await exchange("redis", list[str])

        return ignore
