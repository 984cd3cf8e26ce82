"""The chaos table: every fault ends in speech or in a clean hang-up, no silence is long, and none lacks its cause."""

from __future__ import annotations

from dataclasses import replace

from load_tests.chaos import FAULTS, GIVEN_UP_S, Finding, chaos
from serve_app.scenarios.checks import UNEXPLAINED_S


def test_no_fault_leaves_the_caller_in_dead_air() -> None:
    findings = chaos()
    assert [finding.fault for finding in findings] == list(FAULTS)
    assert [finding.fault.name for finding in findings if not finding.passed] == []
    # A recorded cause excuses no silence.
    long = [(f.fault.name, f.longest_s) for f in findings if f.longest_s > f.fault.limit_s]
    assert long == []
    bare = [finding for finding in findings if not finding.fault.prepared and not finding.fault.second]
    assert max(finding.longest_s for finding in findings if finding not in bare) <= UNEXPLAINED_S
    assert all(UNEXPLAINED_S < finding.longest_s <= GIVEN_UP_S for finding in bare)


def test_a_silence_over_the_limit_of_its_row_is_a_miss() -> None:
    found = Finding(FAULTS[0], "reply", UNEXPLAINED_S, "completed", ends_well=True, explained=True)
    assert found.passed
    assert not replace(found, longest_s=UNEXPLAINED_S + 0.1).passed
    assert not replace(found, explained=False).passed
    assert not replace(found, ends_well=False).passed


def test_the_table_covers_the_faults_that_callers_complain_about() -> None:
    kinds = {(fault.stage, fault.kind) for fault in FAULTS}
    assert {("llm", "half_open"), ("llm", "slow_drip"), ("llm", "429"), ("llm", "hang")} <= kinds
    assert {("llm", "stall"), ("tts", "stall")} <= kinds
    assert {(f.second, f.prepared) for f in FAULTS if f.stage == "llm"} >= {(True, False), (False, False)}
    assert {("stt", "silent"), ("tts", "endless"), ("tts", "half_open"), ("tts", "slow_drip")} <= kinds
