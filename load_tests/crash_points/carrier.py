"""A phone network on simulated time: refuses, loses, delays, repeats, and remembers what it was asked to do."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from load_tests.crash_points.processes import exchange, outside, point
from serve_app.clock import Clock
from serve_app.errors import ProviderError
from serve_app.telephony.vonage.rest import NotPlaced, OutcomeUnknown, PlacedCall
from serve_app.telephony.vonage.snapshot import CallSnapshot

REQUEST_TIMEOUT_S = 8.0
NEVER_S = 3600.0
# What becomes of a create-call request, and how often.
FATES = {
    "placed": 76,
    "slow": 5,
    "response_lost": 5,
    "late": 3,  # taken after the caller has given up
    "request_lost": 3,
    "error_but_placed": 2,
    "throttled": 3,
    "unreachable": 2,
    "refused": 1,
}
NOT_PLACED = frozenset({"throttled", "unreachable", "refused"})
ENDS = {"busy": 15, "timeout": 15, "rejected": 5, "failed": 5, "answered": 60}
LOST, REPEATED, LATE = 0.1, 0.1, 0.15
LIST_LAG_S = 10.0
ASK_FAILS = 0.03

Deliver = Callable[[str, dict[str, Any]], Awaitable[str | None]]
"""POST a document to a URL of ours: the body of the answer, None if there was none."""
Converse = Callable[["Line", str], Awaitable[None]]
"""The media of a call, by its id; returns when the session leaves."""


class ContractBroken(AssertionError):  # noqa: N818 - what it says of the platform
    """What must not happen, whatever dies."""


@dataclass(slots=True)
class Line:
    """A call of the network."""

    id: str
    to: str
    from_: str
    attempt_id: str
    event_url: str
    answer_url: str
    started_at: datetime
    listed_from: float
    status: str = "started"
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False


class Carrier:
    """Stands in for `VonageClient`."""

    def __init__(self, rng: Random, clock: Clock, deliver: Deliver, converse: Converse) -> None:
        self._rng = rng
        self._clock = clock
        self._deliver = deliver
        self._converse = converse
        self.lines: dict[str, Line] = {}
        self.sent: Counter[str] = Counter()
        """Requests by attempt, without those that were provably refused."""
        self._live: dict[str, Line] = {}
        """By number."""
        self.broken: ContractBroken | None = None

    @property
    def live(self) -> int:
        return len(self._live)

    # --- what the platform asks for

    async def create_call(
        self,
        to: str,
        from_: str,
        *,
        event_url: str,
        answer_url: str,
        ringing_timer: int,
        length_timer: int,
        on_machine: str | None,
    ) -> PlacedCall:
        attempt_id = parse_qs(urlsplit(event_url).query)["attempt"][0]
        fate = self._rng.choices(list(FATES), list(FATES.values()))[0]
        await point("before POST")
        self.sent[attempt_id] += 1
        if self.sent[attempt_id] > 1:
            self._break(f"attempt {attempt_id} was sent twice")
        line = Line(
            id=str(uuid.UUID(int=self._rng.getrandbits(128), version=4)),
            to=to,
            from_=from_,
            attempt_id=attempt_id,
            event_url=event_url,
            answer_url=answer_url,
            started_at=self._clock.now(),
            listed_from=0.0,
        )
        # Once it has left, it arrives, whatever becomes of who sent it.
        answer = outside(self._take(line, fate))
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                placed = await asyncio.shield(answer)
        except TimeoutError as error:
            raise OutcomeUnknown("no answer to the create-call request") from error
        await point("after POST")
        if isinstance(placed, ProviderError):
            raise placed
        return placed

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        def end() -> None:
            if (line := self.lines.get(carrier_call_id)) is not None:
                line.hung_up.set()

        await self._asked(end)

    async def get_call(self, carrier_call_id: str, *, region_url: str | None = None) -> CallSnapshot | None:
        return await self._asked(
            lambda: _snapshot(line) if (line := self.lines.get(carrier_call_id)) is not None else None
        )

    async def list_calls(
        self, date_start: datetime, date_end: datetime, turn: Callable[[], Awaitable[None]] | None = None
    ) -> list[CallSnapshot]:
        def listed() -> list[CallSnapshot]:
            now = self._clock.monotonic()
            return [
                _snapshot(line)
                for line in self.lines.values()
                if date_start <= line.started_at <= date_end and line.listed_from <= now
            ]

        if turn is not None:
            await turn()
        return await self._asked(listed)

    async def _asked(self, act: Callable[[], Any]) -> Any:
        if self._rng.random() < ASK_FAILS:
            await point("failed request")
            raise ProviderError("telephony", "simulated", "no answer", retryable=True)
        return await exchange("request", act)

    # --- what the network does

    async def _take(self, line: Line, fate: str) -> PlacedCall | ProviderError:
        delays = {"slow": (1.0, 7.0), "late": (REQUEST_TIMEOUT_S, 2 * REQUEST_TIMEOUT_S)}
        await self._clock.sleep(self._rng.uniform(*delays.get(fate, (0.02, 0.3))))
        if fate in NOT_PLACED:
            self.sent[line.attempt_id] -= 1
            status = {"throttled": 429, "refused": 400}.get(fate)
            return NotPlaced(fate, retryable=fate != "refused", status=status)
        if fate == "request_lost":
            await self._clock.sleep(NEVER_S)
        else:
            self._begin(line)
            if fate == "response_lost":
                await self._clock.sleep(NEVER_S)
        if fate == "error_but_placed":
            return OutcomeUnknown("502", status=502)
        return PlacedCall(line.id, f"CON-{line.id}", "started")

    def _begin(self, line: Line) -> None:
        line.started_at = self._clock.now()
        line.listed_from = self._clock.monotonic() + self._rng.uniform(0, LIST_LAG_S)
        if line.to in self._live:
            self._break(f"two live calls to {line.to}: of {self._live[line.to].attempt_id} and {line.attempt_id}")
        self._live[line.to] = self.lines[line.id] = line
        outside(self._life(line))

    def _break(self, what: str) -> None:
        self.broken = self.broken or ContractBroken(what)

    async def _life(self, line: Line) -> None:
        self._tell(line, "started")
        self._tell(line, "ringing")
        end = self._rng.choices(list(ENDS), list(ENDS.values()))[0]
        ringing_s = 30.0 if end == "timeout" else self._rng.uniform(1, 20)
        if await self._hung_up(line, ringing_s):
            end = "cancelled"
        elif end == "answered":
            await self._conversation(line)
            end = "completed"
        line.status, line.over = end, True
        del self._live[line.to]
        self._tell(line, end)
        if end in ("busy", "timeout", "failed") and self._rng.random() < 0.5:
            self._tell(line, "completed")

    async def _conversation(self, line: Line) -> None:
        self._tell(line, "answered")
        line.status = "answered"
        document = self._document(line, "answered")
        ncco = None
        for _ in range(2):
            ncco = await self._deliver(line.answer_url, document)
            if ncco is not None or await self._hung_up(line, 1):
                break
        call_id = re.search(r"/media/([0-9a-f-]{36})", ncco or "")
        if call_id is not None and self._rng.random() > 0.05:  # the others' media sockets cannot be connected
            await self._converse(line, call_id[1])
        elif ncco is not None and json.loads(ncco):
            await self._hung_up(line, 3)

    async def _hung_up(self, line: Line, within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await line.hung_up.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self, line: Line, status: str) -> None:
        """A webhook: lost, late or repeated as it comes."""
        document = self._document(line, status)
        if self._rng.random() < LOST:
            return
        for _ in range(2 if self._rng.random() < REPEATED else 1):
            late = self._rng.random() < LATE
            outside(self._post(line.event_url, document, self._rng.uniform(0, 40) if late else self._rng.random()))

    async def _post(self, url: str, document: dict[str, Any], after_s: float) -> None:
        await self._clock.sleep(after_s)
        await self._deliver(url, document)

    def _document(self, line: Line, status: str) -> dict[str, Any]:
        return {
            "uuid": line.id,
            "conversation_uuid": f"CON-{line.id}",
            "status": status,
            "direction": "outbound",
            "to": line.to.removeprefix("+"),
            "from": line.from_.removeprefix("+"),
            "timestamp": self._clock.now().isoformat(),
            "sequence": self._rng.getrandbits(64),
        }


def _snapshot(line: Line) -> CallSnapshot:
    return CallSnapshot(
        uuid=line.id,
        conversation_uuid=f"CON-{line.id}",
        status=line.status,
        direction="outbound",
        to=line.to,
        from_=line.from_,
        start_time=line.started_at,
        end_time=None,
        duration_s=None,
    )
