"""Live state in Redis: capacity and slots, media tokens, mailboxes and events of live calls, leases, rates.

Nothing here is the only copy of a fact: a FLUSHALL costs one rebuild (the next beats bring capacity and leases back,
holders reserve their slots again), and at most one call above the rate in that second. Only commands of Redis 6.2.
Keys of one script are not in one hash slot: Redis Cluster is not supported.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from serve_app.errors import SettingsError, UnavailableError
from serve_app.store import redis_scripts as scripts
from serve_app.store.mailroom import Mailroom
from serve_app.store.redis_slot_scripts import joined
from serve_app.store.redis_streams import entries, events_key, inbox_key
from serve_app.store.slots import REPLICAS, SLOTS, Slots, milliseconds

__all__ = ["HeldCall", "LiveState", "Mailroom"]

OPERATION_TIMEOUT_S = 5.0
MOST_CONNECTIONS = 1000
FOLLOW_BLOCK_S = 5.0
EVENTS_KEPT = 1000
EVENTS_LIFE_MS = 3_600_000
INBOX_LIFE_MS = 300_000
LEASE_MEMORY_MS = 2 * 3_600_000 + 600_000
RATE_MARGIN = 1.1
"""Slots are this much further apart than the limit allows: requests wander a little on their way."""

_LEASES = "parley:leases"


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A live call of a session process."""

    slot_id: str
    call_id: str
    epoch: int
    info: dict[str, Any]
    """What `leased_calls` and `last_beat` tell of it."""
    scopes: tuple[str, ...] = ()
    """Beside the sessions, what its slot counts in: see `serve_app.store.slots`."""


class LiveState(Slots):
    """A connection pool to Redis. Belongs to one event loop. Every method raises UnavailableError."""

    def __init__(self, url: str, client: redis.Redis, blocking: redis.Redis) -> None:
        super().__init__(client)
        self._url = url
        self.blocking = blocking
        """For commands that wait on the server: no read timeout of its own; the caller bounds the wait."""
        self._lease = client.register_script(scripts.LEASE_CALL)
        self._hold = client.register_script(scripts.HOLD_CALLS)
        self._drop = client.register_script(scripts.DROP_CALL)
        self._leased = client.register_script(scripts.LEASED_CALLS)
        self._first = client.register_script(scripts.FIRST_WRITER)
        self._post = client.register_script(scripts.POST_COMMAND)
        self._take = client.register_script(scripts.TAKE_COMMAND)
        self._gcra = client.register_script(scripts.GCRA)

    @classmethod
    async def connect(cls, url: str, *, connect_timeout_s: float = 5) -> LiveState:
        """Connect to `redis://`, `rediss://` or `unix://`. Raises UnavailableError naming the URL without password."""
        options: dict[str, Any] = {
            "decode_responses": True,
            "socket_connect_timeout": connect_timeout_s,
            # A retry of a command whose reply was lost would run a script twice.
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 30,
            # The library refuses the command after its own limit of 100; a fast dialer has more calls that wait.
            "max_connections": MOST_CONNECTIONS,
        }
        try:
            client = redis.Redis.from_url(url, socket_timeout=OPERATION_TIMEOUT_S, **options)
            blocking = redis.Redis.from_url(url, socket_timeout=None, **options)
        except ValueError as error:
            raise SettingsError(f"redis.url: {error}") from error
        live = cls(_shown(url), client, blocking)
        try:
            async with asyncio.timeout(connect_timeout_s):
                await live.ping()
        except (UnavailableError, TimeoutError) as error:
            await live.aclose()
            raise UnavailableError(
                f"Redis at {_shown(url)} does not answer within {connect_timeout_s:g} s: {error}; "
                "check redis.url (REDIS_URL) and that the server runs"
            ) from error
        return live

    @property
    def url(self) -> str:
        """Without the password."""
        return self._url

    async def ping(self) -> None:
        with self.reachable():
            await self.client.ping()

    async def aclose(self) -> None:
        await self.client.aclose()
        await self.blocking.aclose()

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turns the client's connection failures into UnavailableError."""
        try:
            yield
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:
            raise UnavailableError(f"Redis at {self._url} does not answer: {error}") from error
        except RedisError as error:
            # READONLY, OOM, MISCONF, LOADING and the like are states of the server; these two are faults of ours.
            if isinstance(error, ResponseError) and str(error).startswith(("WRONGTYPE", "ERR", "NOSCRIPT")):
                raise
            raise UnavailableError(f"Redis at {self._url} refuses: {error}") from error

    # --- media tokens and answers

    async def put_media_token(self, token: str, payload: str, ttl_s: float) -> None:
        """Keep `payload` for whoever presents `token`; Redis sees only the token's hash."""
        with self.reachable():
            await self.client.set(_token_key(token), payload, px=milliseconds(ttl_s))

    async def take_media_token(self, token: str) -> str | None:
        """The payload, once; None for a token that is unknown, used or too old."""
        with self.reachable():
            payload = await self.client.getdel(_token_key(token))
            return None if payload is None else str(payload)

    async def remember_answer(self, key: str, value: str, ttl_s: float) -> str:
        """Keep the first value given for `key` and return it, whoever asks."""
        with self.reachable():
            kept: str = await self._first(keys=[f"parley:answer:{key}"], args=[value, milliseconds(ttl_s)])
            return kept

    async def recalled_answer(self, key: str) -> str | None:
        """What `remember_answer` keeps for `key`, or None."""
        with self.reachable():
            kept = await self.client.get(f"parley:answer:{key}")
            return None if kept is None else str(kept)

    # --- commands to a live call and events from it

    async def post_command(self, call_id: str, command: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Send a command to the session of a call and return its answer.

        Raises TimeoutError when none came in `deadline_s`; the command is not executed after that.
        """
        reply_key = f"parley:reply:{secrets.token_urlsafe(12)}"
        with self.reachable():
            args: list[str | int] = [json.dumps(command), reply_key, milliseconds(deadline_s), INBOX_LIFE_MS]
            await self._post(keys=[inbox_key(call_id)], args=args)
            async with asyncio.timeout(deadline_s + 1):
                answer = await self.blocking.blpop([reply_key], timeout=deadline_s)
        if answer is None:
            raise TimeoutError(f"call {call_id} did not answer within {deadline_s:g} s")
        reply: dict[str, Any] = json.loads(answer[1])
        return reply

    async def take_command(self, call_id: str, entry_id: str, deadline_ms: int) -> float:
        """Take a command out of the inbox. Seconds left to execute it; 0 or less: not ours, or too late."""
        with self.reachable():
            return int(await self._take(keys=[inbox_key(call_id)], args=[entry_id, deadline_ms])) / 1000

    async def answer_command(self, reply_key: str, answer: dict[str, Any], ttl_s: float) -> None:
        with self.reachable():
            async with self.client.pipeline(transaction=True) as pipe:
                pipe.lpush(reply_key, json.dumps(answer))
                pipe.pexpire(reply_key, milliseconds(ttl_s))
                await pipe.execute()

    async def publish(self, call_id: str, *events: dict[str, Any]) -> None:
        """Add events for whoever follows the call; the last 1000 or so stay for an hour."""
        await self.publish_all({call_id: events})

    async def publish_all(self, events: Mapping[str, Sequence[dict[str, Any]]]) -> None:
        """`publish` for many calls in one round trip: call id -> its events, in their order."""
        with self.reachable():
            async with self.client.pipeline(transaction=False) as pipe:
                for call_id, of_call in events.items():
                    key = events_key(call_id)
                    for event in of_call:
                        pipe.xadd(key, {"event": json.dumps(event)}, maxlen=EVENTS_KEPT, approximate=True)
                    pipe.pexpire(key, EVENTS_LIFE_MS)
                await pipe.execute()

    async def follow(
        self, call_id: str, last_id: str = "0", *, idle_timeout_s: float
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """(id, event) after `last_id`, until no event comes for `idle_timeout_s`. Each follower holds a connection."""
        key = events_key(call_id)
        loop = asyncio.get_running_loop()
        idle_until = loop.time() + idle_timeout_s
        while (left := idle_until - loop.time()) > 0:
            block_s = min(left, FOLLOW_BLOCK_S)
            with self.reachable():
                async with asyncio.timeout(block_s + OPERATION_TIMEOUT_S):
                    found = await self.blocking.xread({key: last_id}, count=100, block=milliseconds(block_s))
            for entry_id, fields in entries(found).get(key, []):
                last_id = entry_id
                yield entry_id, json.loads(fields["event"])
                idle_until = loop.time() + idle_timeout_s

    # --- leases of live calls

    async def lease_call(self, call_id: str, epoch: int, ttl_s: float, info: dict[str, Any]) -> bool:
        """A session says that it runs the call. False: a newer epoch holds or held it, so this session must stop."""
        with self.reachable():
            args: list[str | int] = [call_id, epoch, milliseconds(ttl_s), json.dumps(info), LEASE_MEMORY_MS]
            return bool(await self._lease(keys=[_lease_key(call_id), _LEASES], args=args))

    async def hold(self, calls: Sequence[HeldCall], *, slot_ttl_s: float, lease_ttl_s: float) -> list[bool]:
        """Keep the slots and renew the leases of a process' calls, in one round trip.

        A slot that Redis forgot is taken again where there is room, and its places in its scopes in any case.
        Per call, False: a newer epoch holds or held it, so its session must stop.
        """
        if not calls:
            return []
        keys = [*REPLICAS, SLOTS, _LEASES, *(_lease_key(call.call_id) for call in calls)]
        args: list[str | int] = [milliseconds(slot_ttl_s), milliseconds(lease_ttl_s), LEASE_MEMORY_MS]
        for call in calls:
            args += [call.slot_id, call.call_id, call.epoch, json.dumps(call.info), joined(call.scopes)]
        with self.reachable():
            return [bool(held) for held in await self._hold(keys=keys, args=args)]

    async def drop_call(self, call_id: str, epoch: int) -> bool:
        """End the lease; its epoch stays known, lower ones are refused. False: a newer epoch holds the call."""
        with self.reachable():
            return bool(await self._drop(keys=[_lease_key(call_id), _LEASES], args=[call_id, epoch, LEASE_MEMORY_MS]))

    async def leased_calls(self) -> dict[str, dict[str, Any]]:
        """call id -> info of every valid lease."""
        with self.reachable():
            call_ids = await self._leased(keys=[_LEASES])
            if not call_ids:
                return {}
            async with self.client.pipeline(transaction=False) as pipe:
                for call_id in call_ids:
                    pipe.hget(_lease_key(call_id), "info")
                infos = await pipe.execute()
        return {call_id: json.loads(info) for call_id, info in zip(call_ids, infos, strict=True) if info}

    async def last_beat(self, call_id: str) -> tuple[datetime, dict[str, Any]] | None:
        """When a session last leased the call, and its info: also after the lease ended, for two hours."""
        with self.reachable():
            seen, info = await self.client.hmget(_lease_key(call_id), ["seen", "info"])
        if seen is None or info is None:
            return None
        return datetime.fromtimestamp(int(seen) / 1000, UTC), json.loads(info)

    # --- rate

    async def throttle(self, key: str, per_second: float, *, longest_s: float | None = None) -> float:
        """Reserve the next slot of a rate and return the seconds to wait for it: never more than `per_second`.

        A wait over `longest_s` is only told: no slot was reserved, so that whoever will not wait delays nobody else.
        """
        slot_s, now_s = await self.throttle_slot(key, per_second, longest_s=longest_s)
        return slot_s - now_s

    async def throttle_slot(
        self, key: str, per_second: float, *, longest_s: float | None = None
    ) -> tuple[float, float]:
        """The slot and the present, both in seconds on Redis' clock."""
        interval_us = math.ceil(RATE_MARGIN * 1_000_000 / per_second)
        longest_us = -1 if longest_s is None else max(0, round(longest_s * 1_000_000))
        with self.reachable():
            slot_us, now_us = await self._gcra(keys=[f"parley:rate:{key}"], args=[interval_us, longest_us])
        return int(slot_us) / 1e6, int(now_us) / 1e6


def _lease_key(call_id: str) -> str:
    return f"call:{call_id}:lease"


def _token_key(token: str) -> str:
    return f"parley:media:{hashlib.sha256(token.encode()).hexdigest()}"


def _shown(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))
