"""What a running platform holds: memory, descriptors, sockets, threads, tasks, keys in Redis."""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import psutil
import redis

from serve_app.store.reports import VITALS

_SOCKET = re.compile(r"/\S+\.sock")
OURS = ("MediaIngress", "CallSessions", "other replicas", "HAProxy", "rest of Ray")
"""Groups whose memory must not grow. Redis is apart: it keeps the events of ended calls for an hour by design."""


def group_counts(members: Iterable[tuple[psutil.Process, str]]) -> dict[str, float]:
    """`rss_mb GROUP`, `fds GROUP`, `sockets GROUP`, `threads GROUP`: sums over a group's living processes."""
    counts: defaultdict[str, float] = defaultdict(float)
    for process, group in members:
        with contextlib.suppress(psutil.Error), process.oneshot():
            counts[f"rss_mb {group}"] += process.memory_info().rss / 1e6
            counts[f"fds {group}"] += process.num_fds()
            counts[f"sockets {group}"] += len(process.net_connections("all"))
            counts[f"threads {group}"] += process.num_threads()
    return {name: round(value, 2) for name, value in counts.items()}


def private_redis(members: Iterable[psutil.Process]) -> redis.Redis:
    """The platform's own Redis, found by its process. Raises RuntimeError when there is none."""
    for process in members:
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("redis-server") and (found := _SOCKET.search(" ".join(process.cmdline()))):
                return redis.Redis.from_url(f"unix://{found.group()}", decode_responses=True)
    raise RuntimeError("the platform has no Redis of its own")


def redis_counts(client: redis.Redis) -> dict[str, float]:
    """Keys that last, keys that expire by themselves, what stands for live calls; and the tasks of all replicas."""
    keyspace: dict[str, Any] = client.info("keyspace").get("db0", {"keys": 0, "expires": 0})
    counts: defaultdict[str, float] = defaultdict(
        float,
        {
            "redis keys without end": keyspace["keys"] - keyspace["expires"],
            "redis keys that expire": keyspace["expires"],
            "redis slots": client.zcard("parley:slots"),
            "redis leases": client.zcard("parley:leases"),
        },
    )
    for text in client.hvals(f"parley:{VITALS}"):
        report = json.loads(text)
        counts[f"tasks {report['deployment']}"] += report["tasks"]
        counts[f"replicas {report['deployment']}"] += 1
        counts[f"calls over but held {report['deployment']}"] += report["calls_held"] - report["calls_open"]
        slowest = f"collection, ms {report['deployment']}"
        counts[slowest] = max(counts[slowest], report["collect_ms"])
    return dict(counts)
