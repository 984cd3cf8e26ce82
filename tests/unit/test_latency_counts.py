"""Latencies of a process, counted for `/metrics`."""

from __future__ import annotations

import json

from serve_app.latency_budgets import LatencyBudgets
from serve_app.latency_counts import BUCKETS_MS, CAUSES, LatencyCounts


def test_replies_are_counted_by_stage_and_budget() -> None:
    counts = LatencyCounts()
    assert counts.report() == {}
    counts.reply({"stt_ms": 250.0, "sentence_ms": 3.0, "llm_ms": None}, {}, [])
    counts.reply({"stt_ms": 260.0, "sentence_ms": 9999.0}, {}, [])
    counts.reply({"stt_ms": 261.0}, {"stt_ms": "target"}, [])
    rows = {(stage, within): (total, buckets) for stage, within, total, buckets in counts.report()["stages"]}
    assert set(rows) == {("stt_ms", "true"), ("stt_ms", "false"), ("sentence_ms", "")}
    total, buckets = rows["stt_ms", "true"]
    # A bound belongs to its bucket, as Prometheus' `le` does.
    assert total == 510.0 and buckets[BUCKETS_MS.index(260)] == 2 == sum(buckets)
    total, buckets = rows["sentence_ms", ""]
    assert len(buckets) == len(BUCKETS_MS) + 1 and (buckets[0], buckets[-1]) == (1, 1) and total == 10002.0
    json.dumps(counts.report())


def test_causes_are_counted_by_their_word_and_their_names_are_bounded() -> None:
    counts = LatencyCounts()
    counts.reply({}, {}, ["failover: llm 429", "failover: tts hung", "filler"])
    assert counts.report() == {"stages": [], "causes": {"failover": 2, "filler": 1}}
    for number in range(3 * CAUSES):
        counts.reply({}, {}, [f"odd-{number}", "filler"])
    causes = counts.report()["causes"]
    assert len(causes) == CAUSES + 1
    assert causes["filler"] == 1 + 3 * CAUSES
    assert causes["other"] == 3 * CAUSES - (CAUSES - 2)


def test_the_share_within_a_default_budget_can_be_read_from_the_buckets() -> None:
    for _, budget in LatencyBudgets():
        assert {budget.target_ms, budget.limit_ms} <= set(BUCKETS_MS)
