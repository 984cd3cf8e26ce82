"""What came of a conversation, as the model reports it, or a person later. Pure, but `Results` has it written down.

Only calls for the sake of a lead have a result: it decides whether, and when, the lead is called again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from serve_app.clock import Clock
from serve_app.conversation.tools import REPORT_RESULT, Tool, function

Result = Literal[
    "success",
    "not_interested",
    "callback",
    "reached_incomplete",
    "machine",
    "message_left",
    "wrong_number",
    "litigator",
]
"""Those of `dialing.dispositions.REPORTABLE`."""
RESULTS: tuple[Result, ...] = get_args(Result)
LATEST_CALLBACK = timedelta(days=90)
"""Whoever misheard a date must not park a lead for years."""

_DESCRIPTION = """Call this once it is clear what came of this call, together with your words or your goodbye, never \
instead of them; again if it turns out otherwise. success: what the call is for is reached. not_interested: refused. \
callback: they want to be called at another time, which callback_at tells. reached_incomplete: the conversation cannot \
be finished now. machine: a voicemail or another machine talks, and you left no message; message_left: you left one. \
wrong_number: the person you call for cannot be reached at this number. litigator: they threaten with the law because \
of the call. For the other person it is now {now} ({zone})."""


@dataclass(frozen=True, slots=True)
class Report:
    result: Result
    callback_at: datetime | None = None
    """With `callback`, aware: the time that was promised; None: none was named."""


class ReportRefusedError(ValueError):
    """`field` says what cannot be used, the message why, and what to give instead."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message}; {remedy}")
        self.field, self.message, self.remedy = field, message, remedy


def checked(result: Result, callback_at: datetime | None, *, zone: str, now: datetime) -> Report:
    """A report of `now`. A time without an offset is one of `zone`, the callee's. Raises ReportRefusedError."""
    if callback_at is None:
        return Report(result)
    if result != "callback":
        raise ReportRefusedError("callback_at", f"it goes with callback, not with {result}", "leave it out")
    at = callback_at if callback_at.tzinfo is not None else callback_at.replace(tzinfo=ZoneInfo(zone))
    if at <= now:
        raise ReportRefusedError(
            "callback_at", "it is not in the future", "give the date and the time of the next call"
        )
    if at - now > LATEST_CALLBACK:
        raise ReportRefusedError(
            "callback_at", f"it is more than {LATEST_CALLBACK.days} days away", "give a nearer one"
        )
    return Report(result, at)


def of_arguments(arguments: Mapping[str, object], *, zone: str, now: datetime) -> Report:
    """The report in a tool call: the model may give anything. Raises ReportRefusedError."""
    result = next((one for one in RESULTS if one == arguments.get("result")), None)
    if result is None:
        raise ReportRefusedError("result", "it is none of those that there are", f"give one of {', '.join(RESULTS)}")
    told = arguments.get("callback_at")
    if told is None or told == "":
        return Report(result)
    try:
        at = datetime.fromisoformat(str(told))
    except ValueError as error:
        raise ReportRefusedError("callback_at", "it is not a time", "write it like 2027-01-11T15:30") from error
    return checked(result, at, zone=zone, now=now)


def tool_of(zone: str, now: datetime) -> Tool:
    """The tool as the model is told of it, at the beginning of a call to somebody in `zone`."""
    local = now.astimezone(ZoneInfo(zone))
    times = "with callback, if they named a time: in their own time, as YYYY-MM-DDTHH:MM"
    return function(
        REPORT_RESULT,
        _DESCRIPTION.format(now=f"{local:%A} {local:%Y-%m-%dT%H:%M}", zone=zone),
        {"result": {"type": "string", "enum": list(RESULTS)}, "callback_at": {"type": "string", "description": times}},
        ("result",),
    )


class Results:
    """The result of one call. It changes nothing in the talk, so the turn machine does not know of it."""

    def __init__(self, zone: str, clock: Clock, write: Callable[[Report], None]) -> None:
        self._zone = zone
        self._clock = clock
        self._write = write
        self.tool = tool_of(zone, clock.now())

    def called(self, arguments: Mapping[str, object]) -> str:
        """The model reports; what it is told of it."""
        try:
            report = of_arguments(arguments, zone=self._zone, now=self._clock.now())
        except ReportRefusedError as error:
            return f"refused: {error}"
        self._write(report)
        return "done"
