"""Every metric that Parley exports, by name. Labels are bounded sets; no call id, number or tenant is ever a label.

These are the counters of one process. What the whole platform did is read when `/metrics` is scraped, because sessions
run in other processes than the API: calls by outcome from SQL, the rest from the replicas' reports in Redis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serve_app.latency_counts import BUCKETS_MS, LATENCIES

CALLS_REQUESTED = Counter("parley_calls_requested_total", "Outbound calls asked for through the API.", ["result"])
CALLS_INBOUND = Counter("parley_calls_inbound_total", "Inbound calls at the answer webhook.", ["result"])
ATTEMPTS = Counter("parley_attempts_total", "Create-call requests and what became of them.", ["result"])
LEADS = Counter("parley_leads_decided_total", "Leads of campaigns that were due: called, or why not.", ["result"])
WEBHOOKS = Counter("parley_webhooks_total", "Provider webhooks.", ["kind", "result"])
ANSWER_SECONDS = Histogram(
    "parley_answer_webhook_seconds",
    "Time to answer the network's question what to do with a call (budget: 0.5 s).",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
HTTP_REQUESTS = Counter("parley_http_requests_total", "Requests to the API.", ["method", "route", "status"])

SESSIONS = CollectorRegistry()
"""What session processes count. Nobody scrapes them: they report it (`session_report`), `/metrics` exports that."""
DRAFTS = Counter(
    "parley_drafts_total",
    "Answers begun before the callee's turn was certainly over.",
    ["result"],
    registry=SESSIONS,
)
DRAFT_SAVED_SECONDS = Counter(
    "parley_draft_saved_seconds_total", "Waiting for first tokens that drafts saved.", registry=SESSIONS
)
TOKENS = Counter(
    "parley_llm_tokens_total", "Tokens of answers, and of drafts that were dropped.", ["use"], registry=SESSIONS
)
FAILOVERS = Counter(
    "parley_failovers_total", "Turns that the next provider of a stage took over.", ["stage"], registry=SESSIONS
)
LINES = Counter(
    "parley_lines_total",
    "Fixed lines spoken: from prepared audio, or synthesized live.",
    ["source"],
    registry=SESSIONS,
)

# Read at scrape time.
SLOTS_TOTAL = Gauge("parley_slots", "Calls that the live session replicas can hold.")
SLOTS_USED = Gauge("parley_slots_used", "Calls that hold or have reserved a session.")
CALLS_LIVE = Gauge("parley_calls_live", "Calls that have not ended.", ["status"])
CALLS_RECENT = Gauge("parley_calls_recent", "Calls that ended in the last hour.", ["outcome"])
# Of every replica of the platform, by its own report. `replica` is `role@host:pid`: as many values as processes live.
_REPLICA = ["deployment", "replica"]
REPLICA = {
    "calls_open": Gauge("parley_replica_calls_open", "Calls on the line.", _REPLICA),
    "calls_held": Gauge("parley_replica_calls_held", "Calls that are open, or over and not freed yet.", _REPLICA),
    "tasks": Gauge("parley_replica_tasks", "Tasks of the event loop.", _REPLICA),
    "fds": Gauge("parley_replica_open_fds", "Open file descriptors.", _REPLICA),
    "threads": Gauge("parley_replica_threads", "Threads of the process.", _REPLICA),
    "rss_bytes": Gauge("parley_replica_resident_bytes", "Memory of the process.", _REPLICA),
}
TURN_RECENT_MS = Gauge("parley_turn_latency_recent_ms", "Turn latency over the last 15 minutes.", ["quantile"])
LOOP_LAG_MS = Gauge(
    "parley_loop_lag_ms", "Event-loop lag over the last 5 s, of the worst replica of a role.", ["role", "quantile"]
)
CALLS_WAITING = Gauge("parley_calls_waiting", "Outbound calls that could be placed now if there were slots.")


def session_report() -> dict[str, Any]:
    """What this process counted of calls since it began, as JSON; empty as long as that is nothing.

    `stages`, `causes`: see `LatencyCounts.report`. `counters`: rows of name, labels, value.
    """
    samples = [sample for metric in SESSIONS.collect() for sample in metric.samples]
    counters = [[s.name, s.labels, s.value] for s in samples if s.name.endswith("_total") and s.value]
    latencies = LATENCIES.report()
    if not latencies and not counters:
        return {}
    return {"stages": [], "causes": {}, **latencies, "counters": counters}


class SessionReports(Collector):
    """The reports of all session replicas, as metrics."""

    def __init__(self) -> None:
        self.reports: Mapping[str, Mapping[str, Any]] = {}
        """Replica -> its `session_report`."""

    def collect(self) -> Iterator[Metric]:
        yield self._latencies()
        causes = _family("parley_turn_causes", "Why a callee waited, or heard something else than a reply.", ("cause",))
        for replica, report in self.reports.items():
            for cause, count in report["causes"].items():
                causes.add_metric([cause, replica], count)
        yield causes
        yield from self._counters()

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            "parley_turn_latency_ms",
            "Milliseconds of a reply, by stage. within_target is empty for a stage without a budget.",
            labels=["stage", "within_target", "replica"],
        )
        bounds = [*map(str, BUCKETS_MS), "+Inf"]
        for replica, report in self.reports.items():
            for stage, within_target, sum_ms, counts in report["stages"]:
                buckets = list(zip(bounds, accumulate(counts), strict=True))
                family.add_metric([stage, within_target, replica], buckets, sum_ms)
        return family

    def _counters(self) -> Iterator[Metric]:
        told = {metric.name: metric.documentation for metric in SESSIONS.collect()}
        families: dict[str, CounterMetricFamily] = {}
        for replica, report in self.reports.items():
            for total, labels, value in report["counters"]:
                name = total.removesuffix("_total")
                if name not in families:
                    families[name] = _family(name, told.get(name, ""), tuple(labels))
                families[name].add_metric([*labels.values(), replica], value)
        yield from families.values()


def _family(name: str, documentation: str, labels: tuple[str, ...]) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=[*labels, "replica"])


SESSION_REPORTS = SessionReports()
REGISTRY.register(SESSION_REPORTS)
