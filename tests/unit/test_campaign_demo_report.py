"""The report of the campaign's demonstration: what it counts, and when it says that something went wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from serve_app.cli.campaign_audit import NetworkCall
from serve_app.cli.campaign_demo import DemoResult, PutOff
from serve_app.cli.campaign_demo_file import DemoFile
from serve_app.cli.campaign_demo_report import as_json, print_report
from serve_app.store.campaign_rows import ImportRow, LeadRow
from serve_app.store.rows import AttemptRow
from tests.unit.test_campaign_audit import START, TIME, call, lead

NEW_YORK, LOS_ANGELES, LISTED = "+12125550100", "+13105550100", "+12125550101"


def row(kind: type[Any], **values: Any) -> Any:
    return kind(**(dict.fromkeys(kind.__dataclass_fields__) | values))


def of_lead(number: str, state: str, reason: str | None, due_s: float = 0) -> LeadRow:
    values = {"state": state, "last_reason": reason, "next_at": START + timedelta(seconds=due_s)}
    return replace(lead(number), id=number, attempts=1, **values)


def result(**changes: Any) -> DemoResult:
    """Three leads: one was called and is called again, one waits for its window, one must not be called."""
    calls = [
        call(NEW_YORK, 0.5, 3, answered_at=START + timedelta(seconds=1)),
        call(NEW_YORK, 70, 71),
    ]
    values: dict[str, Any] = {
        "demo": DemoFile.shipped(),
        "whole_file": False,
        "imported": row(ImportRow, counts={"rows": 5, "accepted": 3, "blank": 0, "refused": {"number_missing": 2}}),
        "time": TIME,
        "real_s": 120.0,
        "stats": {"results": {"reached_incomplete": 1, "busy": 1}, "contact_rate": 0.5, "cost": {"EUR": "0.012500"}},
        "leads": [
            of_lead(NEW_YORK, "deferred", "retry_busy", 300),
            of_lead(LOS_ANGELES, "deferred", "outside_window", 180),
            of_lead(LISTED, "barred", "on_do_not_call_list"),
        ],
        "attempts": [row(AttemptRow, status="ended", carrier_call_id=one.uuid) for one in calls],
        "calls": calls,
        "throttled": 1,
        "webhook_faults": {"webhook_lost": 2},
        "seen": {
            ("outside_window", "America/Los_Angeles"): PutOff({LOS_ANGELES}, START + timedelta(hours=3)),
            ("on_do_not_call_list", "America/New_York"): PutOff({LISTED}),
        },
        "opted_out": ["+12125550105"],
        "illegal": 0,
    }
    return DemoResult(**(values | changes))


def test_the_document_tells_times_by_the_campaigns_clock() -> None:
    told = as_json(result())
    assert told["problems"] == []
    assert (told["calls"], told["answered"], told["answer_rate"], told["calls_per_minute"]) == (2, 1, 0.5, 1.0)
    assert told["calls_by_hour"] == {"Mon 09:00": 1, "Mon 10:00": 1}
    assert [(entry["reason"], entry["until"]) for entry in told["put_off"]] == [
        ("on_do_not_call_list", None),
        ("outside_window", "2026-10-19T12:00:00-04:00"),
    ]
    assert [(entry["reason"], entry["leads"], entry["from"]) for entry in told["left"]] == [
        ("outside_window", 1, "2026-10-19T12:00:00-04:00"),
        ("retry_busy", 1, "2026-10-19T14:00:00-04:00"),
    ]


def test_a_person_reads_it_on_eighty_columns() -> None:
    page = StringIO()
    print_report(Console(file=page, width=80), result())
    text = page.getvalue()
    for told in (
        "Monday 09:00", "imported 3 of 5 rows; refused: 2 number_missing", "2 lost; requests refused: 1",
        "America/Los_Angeles   from Mon 12:00 on", "closed", "Mon 14:00", "double dials: 0", "illegal minutes: 0",
        "opt-outs, on the do-not-call list: 1", "the network charged 0.012500 EUR", "everything went as it should",
    ):  # fmt: skip
        assert told in text, text
    assert max(map(len, text.splitlines())) <= 80


def broken(base: DemoResult) -> dict[str, DemoResult]:
    twice = [*base.calls, replace(base.calls[1], uuid="other", created_at=base.calls[1].created_at)]
    known = [*base.attempts, row(AttemptRow, status="ended", carrier_call_id="other")]
    stranger: NetworkCall = call("+12125550109", 9, 10)
    return {
        "2 double dials": replace(base, calls=twice, attempts=known),
        "1 calls that no attempt knows": replace(base, calls=[*base.calls, stranger]),
        "4 calls at forbidden minutes": replace(base, illegal=4),
        "1 attempts that have not ended": replace(
            base, attempts=[*base.attempts, row(AttemptRow, status="placed", carrier_call_id=None)]
        ),
        "1 leads wait for an attempt that has ended": replace(
            base, leads=[*base.leads[:2], of_lead(LISTED, "leased", "allowed")]
        ),
        "3 leads were imported and 2 are there": replace(base, leads=base.leads[:2]),
        "the rows of the file do not add up": replace(
            base, imported=row(ImportRow, counts={"rows": 9, "accepted": 3, "blank": 0, "refused": {}})
        ),
        "nobody was called": replace(base, calls=[], attempts=[]),
    }


@pytest.mark.parametrize("told", list(broken(result())))
def test_whatever_must_not_happen_is_a_problem(told: str) -> None:
    assert broken(result())[told].problems == [told]


def test_the_whole_file_has_to_come_to_what_it_says() -> None:
    problems = result(whole_file=True).problems
    assert problems == [
        "3 rows accepted and 2 refused",
        "1 opt-outs, expected at least 2",
        "2 calls, expected at least 120",
    ]
