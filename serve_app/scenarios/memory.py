"""Stores that remember what a call writes, or fail."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime

from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.results import Report
from serve_app.errors import UnavailableError


@dataclass
class Memory:
    """Implements `CallJournal` and `PartStore`."""

    broken: bool = False
    parts: dict[str, bytes] = field(default_factory=dict)
    records: dict[int, TurnRecord] = field(default_factory=dict)
    events: list[dict[str, object]] = field(default_factory=list)
    results: list[CallResult] = field(default_factory=list)
    opt_outs: list[tuple[str, str]] = field(default_factory=list)
    """Source and text."""
    reports: list[Report] = field(default_factory=list)
    starts: int = 0

    def _check(self) -> None:
        if self.broken:
            raise UnavailableError("the store is down")

    async def put(self, key: str, data: bytes) -> None:
        self._check()
        if key in self.parts:
            raise ValueError(f"{key} is written twice")
        self.parts[key] = data

    async def started(self, lease: CallLease, at: datetime) -> None:
        self._check()
        self.starts += 1

    async def turn(self, lease: CallLease, record: TurnRecord) -> None:
        self._check()
        self.records[record.index] = record

    async def live(self, lease: CallLease, event: dict[str, object]) -> None:
        self._check()
        json.dumps(event)
        self.events.append(event)

    async def opt_out(self, lease: CallLease, source: str, text: str) -> None:
        self._check()
        self.opt_outs.append((source, text))

    async def report(self, lease: CallLease, report: Report) -> None:
        self._check()
        self.reports.append(report)

    async def finished(self, lease: CallLease, result: CallResult) -> None:
        self._check()
        self.results.append(result)

    @property
    def turns(self) -> list[TurnRecord]:
        return [self.records[index] for index in sorted(self.records)]

    def texts(self) -> list[tuple[str, str]]:
        return [(turn.role, turn.heard_text) for turn in self.turns]
