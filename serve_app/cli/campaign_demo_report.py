"""What a person, or a program, reads of the demonstration of a campaign."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serve_app.cli.campaign_audit import place
from serve_app.cli.campaign_demo import OPEN, DemoResult
from serve_app.dialing.rules import Reason
from serve_app.store.campaign_rows import LeadRow

_EXPLAINED = {str(reason): reason.explanation for reason in Reason}


def as_json(result: DemoResult) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {
        "imported": result.imported.counts,
        "leads": dict(Counter(lead.state for lead in result.leads)),
        "dispositions": result.stats["results"],
        "calls": len(result.calls),
        "answered": result.answered,
        "answer_rate": _rate(result.answered, len(result.calls)),
        "contact_rate": result.stats["contact_rate"],
        "cost": result.stats["cost"],
        "calls_per_minute": round(len(result.calls) * 60 / result.real_s, 1),
        "calls_by_hour": {hour: calls for hour, (calls, _) in _by_hour(result).items()},
        "put_off": [
            {
                "reason": reason,
                "zone": zone,
                "leads": len(put_off.leads),
                "until": None if put_off.until is None else result.demo.clock.told(put_off.until).isoformat(),
            }
            for (reason, zone), put_off in sorted(result.seen.items())
        ],
        "left": [
            {
                "reason": reason,
                "zone": zone,
                "leads": len(due),
                "from": min(due).isoformat(),
                "to": max(due).isoformat(),
            }
            for (reason, zone), due in sorted(_left(result).items())
        ],
        "opt_outs": len(result.opted_out),
        "double_dials": result.double_dials,
        "illegal_minutes": result.illegal,
        "unknown_calls": result.unknown_calls,
        "throttled": result.throttled,
        "webhook_faults": result.webhook_faults,
        "real_s": round(result.real_s, 1),
        "problems": result.problems,
    }


def print_report(console: Console, result: DemoResult) -> None:
    clock = result.demo.clock
    console.print()
    console.print(
        f"{clock.told(clock.begins):%A %H:%M} and {result.demo.hours:g} hours more in {clock.zone}, in "
        f"{result.real_s:.0f} s",
        style="bold",
    )
    counts = result.imported.counts
    refused = ", ".join(f"{rows} {code}" for code, rows in sorted(counts["refused"].items())) or "none"
    console.print(f"imported {counts['accepted']} of {counts['rows']} rows; refused: {refused}", markup=False)
    console.print(_hours(result))
    console.print(_dispositions(result))
    for line in _put_off(result):
        console.print(line)
    console.print(_left_table(result))
    faults = [f"{count} {kind.removeprefix('webhook_')}" for kind, count in sorted(result.webhook_faults.items())]
    console.print(f"the network's faults: webhooks {', '.join(faults) or 'none'}; requests refused: {result.throttled}")
    charged = ", ".join(f"{amount} {currency}" for currency, amount in sorted(result.stats["cost"].items()))
    console.print(f"the network charged {charged or 'nothing'}")
    checks = {
        "opt-outs, on the do-not-call list": len(result.opted_out),
        "double dials": result.double_dials,
        "illegal minutes": result.illegal,
        "calls that no attempt knows": result.unknown_calls,
    }
    for what, count in checks.items():
        console.print(f"{what}: {count}")
    for problem in result.problems:
        console.print(Text(f"problem: {problem}", style="red"))
    if not result.problems:
        console.print("everything went as it should", style="green")


def _hours(result: DemoResult) -> Table:
    table = _table("hour", "calls", "answered", "rate", "calls a minute, real time")
    speed = result.time.speed
    for hour, (calls, answered) in _by_hour(result).items():
        table.add_row(hour, str(calls), str(answered), _percent(answered, calls), f"{calls * speed / 60:.0f}")
    calls, rate = len(result.calls), _percent(result.answered, len(result.calls))
    table.add_row("all", str(calls), str(result.answered), rate, f"{calls * 60 / result.real_s:.0f}")
    return table


def _by_hour(result: DemoResult) -> dict[str, tuple[int, int]]:
    """Calls, and answered ones, by the hour of the campaign's clock."""
    calls: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for call in result.calls:
        hour = f"{result.demo.clock.told(result.time.shows(call.created_at)):%a %H:00}"
        calls[hour] += 1
        answered[hour] += call.answered_at is not None
    return {hour: (calls[hour], answered[hour]) for hour in calls}


def _dispositions(result: DemoResult) -> Table:
    table = _table("disposition", "attempts")
    for word, count in sorted(result.stats["results"].items(), key=lambda item: -item[1]):
        table.add_row(word.replace("_", " "), str(count))
    return table


def _put_off(result: DemoResult) -> Iterator[Text]:
    """A line for each reason, and below it how many leads where, and until when."""
    yield Text("not called then, or not at all", style="bold")
    told = ""
    for (reason, zone), put_off in sorted(result.seen.items(), key=lambda item: (item[0][0], -len(item[1].leads))):
        if reason != told:
            yield Text(f"{reason}: {_EXPLAINED.get(reason, '')}")
        told = reason
        until = "closed" if put_off.until is None else f"from {_at(result, put_off.until)} on"
        yield Text(f"{len(put_off.leads):6}  {zone:<22}{until}")


def _left_table(result: DemoResult) -> Table:
    table = _table("left", "where", "leads", "due from", "to")
    for (reason, zone), due in sorted(_left(result).items()):
        table.add_row(reason, zone, str(len(due)), _at(result, min(due)), _at(result, max(due)))
    return table


def _left(result: DemoResult) -> dict[tuple[str, str], list[datetime]]:
    """When those are due who may still be called, by the campaign's clock."""
    left: dict[tuple[str, str], list[datetime]] = defaultdict(list)
    for lead in result.leads:
        if lead.state in OPEN:
            left[(lead.last_reason or "new", place(lead))].append(_due(result, lead))
    return left


def _due(result: DemoResult, lead: LeadRow) -> datetime:
    return result.demo.clock.told(result.time.shows(lead.next_at))


def _at(result: DemoResult, moment: datetime) -> str:
    return f"{result.demo.clock.told(moment):%a %H:%M}"


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    for title in titles:
        table.add_column(title, no_wrap=True)
    return table
