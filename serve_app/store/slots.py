"""What a call holds while it is under way, on Redis: the slot of a session, and a place in each of its scopes.

A scope bounds the calls of something: the network's lines, a tenant, a campaign, the phones that ring. It is a sorted
set of leases, slot id -> end on Redis' clock; a slot and its places live and end together. Only commands of Redis 6.2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import redis.asyncio as redis

from serve_app.store import redis_slot_scripts as scripts

REPLICAS = ["parley:beats", "parley:capacities", "parley:capacity"]
SLOTS = "parley:slots"
SESSIONS = "sessions"
"""The scope of all session slots; its limit is what the replicas offer."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Something that carries a limited number of calls at once."""

    name: str
    most: int


class Slots(ABC):
    """The slots of all sessions, and the scopes. Every method raises UnavailableError."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._reserve = client.register_script(scripts.RESERVE_SLOT)
        self._keep = client.register_script(scripts.KEEP_SLOT)
        self._release = client.register_script(scripts.RELEASE_SLOT)
        self._offer = client.register_script(scripts.OFFER_SLOTS)
        self._capacity = client.register_script(scripts.CAPACITY)

    @abstractmethod
    def reachable(self) -> AbstractContextManager[None]:
        """Turns the client's connection failures into UnavailableError."""

    async def beat(self, replica_id: str, capacity: int, ttl_s: float = 3) -> None:
        """A session replica says how many calls it can hold, valid for `ttl_s`."""
        with self.reachable():
            await self._offer(keys=REPLICAS, args=[replica_id, capacity, milliseconds(ttl_s)])

    async def leave(self, replica_id: str) -> None:
        """The replica takes no more calls."""
        with self.reachable():
            await self._offer(keys=REPLICAS, args=[replica_id, 0, 0])

    async def reserve_in(self, scopes: Sequence[Scope], slot_id: str, ttl_s: float) -> str | None:
        """Take a slot and a place in each scope, all or nothing. None: taken; else the first scope that is full.

        `SESSIONS` is asked last. The same `slot_id` again extends what it holds, full or not, and gives up its places
        in other scopes.
        """
        args: list[str | int] = [slot_id, milliseconds(ttl_s)]
        for scope in scopes:
            args += [scope.name, scope.most]
        with self.reachable():
            full = await self._reserve(keys=[*REPLICAS, SLOTS], args=args)
            return None if full is None else str(full)

    async def reserve(self, slot_id: str, ttl_s: float, scopes: Sequence[str] = ()) -> bool:
        """Take a slot for a call that the network carries already. False: no session is free, and nothing is taken.

        It counts in `scopes`, however full they are, and in no others. Else as `reserve_in`.
        """
        args: list[str | int] = [slot_id, milliseconds(ttl_s)]
        for name in scopes:
            args += [name, scripts.COUNTED]
        with self.reachable():
            return await self._reserve(keys=[*REPLICAS, SLOTS], args=args) is None

    async def keep(self, slot_id: str, ttl_s: float) -> bool:
        """Extend a slot and its places. False: it ran out or Redis forgot it; a holder then reserves it again."""
        with self.reachable():
            return bool(await self._keep(keys=[SLOTS], args=[slot_id, milliseconds(ttl_s)]))

    async def release(self, slot_id: str) -> None:
        """Give up the slot and its places. Idempotent."""
        with self.reachable():
            await self._release(keys=[SLOTS], args=[slot_id])

    async def capacity(self) -> tuple[int, int]:
        """(total, used) over the live replicas and held slots."""
        with self.reachable():
            total, used = await self._capacity(keys=[*REPLICAS, SLOTS])
            return int(total), int(used)


def milliseconds(seconds: float) -> int:
    """At least 1: a time of 0 means "for ever" to Redis, or is refused."""
    return max(1, round(seconds * 1000))
