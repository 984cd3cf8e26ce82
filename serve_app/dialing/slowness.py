"""Providers that become slow before they fail: told by how long requests take, and by how replies come. Pure.

What is slow by itself stays so: the providers of a platform differ. So both are held against what was usual here, and
against a bound beyond which something is wrong in any case. What is judged once is not judged again.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping
from typing import Any

from serve_app.latency_counts import BUCKETS_MS

WINDOW_S = 60.0
TIMES_USUAL = 2.0
WEIGHT = 0.1
"""Of the newest judgement in what is usual: it follows in about ten of them."""

LEAST_REQUESTS = 20
"""Fewer in a window say nothing of their 95th percentile."""
MOST_REQUESTS = 256
NOTICEABLE_S = 0.5
"""However fast requests usually are, below this none is slow."""

LEAST_REPLIES = 40
SLOW_REPLY_MS = 1500
MOST_SLOW = 0.05
"""Share of the replies: the 95th percentile is `SLOW_REPLY_MS`."""
SURELY_SLOW = 0.5
"""Share of the replies that is trouble however long it has been usual."""
PROVIDERS = ("stt_ms", "llm_ms", "tts_ms")
"""The stages of a reply for which a provider answers."""
FAILURES = frozenset(f"{stage}_{what}" for stage in ("stt", "llm", "tts") for what in ("failed", "gave_up"))
"""Causes that the record of a turn names. `*_late` is none of them: such a reply is slow."""


class RequestTimes:
    """The network's create-call requests of the last minute. `limit_s`: a percentile above it is slow anywhere."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._recent: deque[tuple[float, float]] = deque(maxlen=MOST_REQUESTS)
        self._usual_s: float | None = None
        self._learned_at_s = -math.inf

    def took(self, seconds: float, now_s: float) -> bool:
        """One was answered after `seconds`. True: they are slow now; the next ones are judged by themselves."""
        self._recent.append((now_s, seconds))
        while self._recent[0][0] < now_s - WINDOW_S:
            self._recent.popleft()
        if len(self._recent) < LEAST_REQUESTS:
            return False
        times = sorted(taken for _, taken in self._recent)
        p95_s = times[math.ceil(0.95 * len(times)) - 1]
        usual_s = p95_s if self._usual_s is None else self._usual_s
        slow = p95_s > min(self._limit_s, max(NOTICEABLE_S, TIMES_USUAL * usual_s))
        if slow or now_s - self._learned_at_s >= WINDOW_S:
            self._usual_s = usual_s + WEIGHT * (p95_s - usual_s)
            self._learned_at_s = now_s
        if slow:
            self._recent.clear()
        return slow


class ReplyTroubles:
    """The replies of all live calls, by what session replicas report (`serve_app.metrics.session_report`)."""

    def __init__(self) -> None:
        self._seen: Mapping[str, tuple[int, int]] = {}
        self._replies = self._troubled = 0
        self._since_s = -math.inf
        self._usual = 0.0

    def look(self, reports: Mapping[str, Mapping[str, Any]], now_s: float) -> bool:
        """Replica -> its report now. True: providers of speech or the model are slow, or fail, for too many replies.

        A replica that is seen for the first time has counted since it began: its counts begin to tell the next time.
        """
        if now_s - self._since_s > WINDOW_S:
            self._replies, self._troubled, self._since_s = 0, 0, now_s
        seen = {replica: _counts(report) for replica, report in reports.items()}
        for replica, (replies, troubled) in seen.items():
            before = self._seen.get(replica, (replies, troubled))
            self._replies += max(0, replies - before[0])
            self._troubled += max(0, troubled - before[1])
        self._seen = seen
        # A reply that failed is perhaps none that was counted.
        if max(self._replies, self._troubled) < LEAST_REPLIES:
            return False
        share = self._troubled / max(self._replies, self._troubled)
        bad = share > min(SURELY_SLOW, max(MOST_SLOW, TIMES_USUAL * self._usual))
        self._usual += WEIGHT * (share - self._usual)
        self._replies, self._troubled, self._since_s = 0, 0, now_s
        return bad


def _counts(report: Mapping[str, Any]) -> tuple[int, int]:
    """Replies, and those of them that were slow by a provider or failed, since the replica began."""
    replies = 0
    slow = dict.fromkeys(PROVIDERS, 0)
    for stage, _within, _sum_ms, buckets in report.get("stages", ()):
        if stage == "total_ms":
            replies += sum(buckets)
        elif stage in slow:
            slow[stage] += sum(buckets[bisect_left(BUCKETS_MS, SLOW_REPLY_MS) + 1 :])
    failed = sum(count for cause, count in report.get("causes", {}).items() if cause in FAILURES)
    return replies, max(slow.values()) + failed
