"""The chaos table: every fault ends in speech or in a clean hang-up, and every long silence has a recorded cause."""

from __future__ import annotations

from load_tests.chaos import FAULTS, chaos


def test_no_fault_leaves_the_caller_in_dead_air() -> None:
    findings = chaos()
    assert [finding.fault for finding in findings] == list(FAULTS)
    assert [finding.fault.name for finding in findings if not finding.passed] == []


def test_the_table_covers_the_faults_that_callers_complain_about() -> None:
    kinds = {(fault.stage, fault.kind) for fault in FAULTS}
    assert {("llm", "half_open"), ("llm", "slow_drip"), ("llm", "429"), ("llm", "hang")} <= kinds
    assert {("stt", "silent"), ("tts", "endless"), ("tts", "half_open"), ("tts", "slow_drip")} <= kinds
