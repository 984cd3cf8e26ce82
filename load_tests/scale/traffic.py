"""Calls in and out through the simulated network, so many at a time as the scenario wants."""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass
from typing import Any, Literal

import httpx

Fate = Literal["open", "completed", "refused", "cut", "not_placed"]
TURN_S = 2.0
"""Less than one question, its answer and the pause after it can take: nobody runs out of questions."""
REFUSAL = "all our lines are busy"


def callee(call_s: int) -> dict[str, Any]:
    """Somebody who asks now and then, and hangs up after `call_s`, however brief the agent is.

    Whoever else ends the call has cut it.
    """
    question = {"say": "Where can I park?", "patience_ms": 20_000}
    steps = [step for _ in range(int(call_s / TURN_S)) for step in (question, {"wait_ms": 3000})]
    return {"steps": steps, "answer_after_ms": 300, "max_duration_s": call_s}


@dataclass(slots=True)
class Placed:
    """One call that we asked for, followed by its number."""

    direction: Literal["inbound", "outbound"]
    number: str
    asked_s: float
    """Since the start of the run, as all times here."""
    media_s: float | None = None
    """When its socket opened, by the frames that it has sent since."""
    ended_s: float | None = None
    first_audio_s: float | None = None
    """From the open socket to the agent's first sounding frame."""
    fate: Fate = "open"
    detail: str = ""
    underruns: int = 0

    @property
    def live(self) -> bool:
        return self.fate == "open"

    @property
    def setup_s(self) -> float | None:
        """From the request (outbound) or the ringing (inbound) to the open socket; 0.3 s of it are the answering."""
        return None if self.media_s is None else self.media_s - self.asked_s

    @property
    def media_length_s(self) -> float:
        """How long it had media; 0 if never, or not over yet."""
        return 0.0 if self.media_s is None or self.ended_s is None else self.ended_s - self.media_s

    def up_during(self, began_s: float, ended_s: float) -> bool:
        """It had media at some moment of this time."""
        return self.media_s is not None and self.media_s < ended_s and (self.ended_s is None or self.ended_s > began_s)


class Traffic:
    """Starts calls and follows them. All requests are synchronous: one thread, one poll per tick."""

    def __init__(self, api: httpx.Client, sim: httpx.Client, began_s: float) -> None:
        self._api = api
        self._sim = sim
        self._began_s = began_s
        self._numbers = itertools.count(12025550200)
        self.calls: dict[str, Placed] = {}
        self.seen_by_network: dict[str, dict[str, Any]] = {}

    def now_s(self) -> float:
        return time.monotonic() - self._began_s

    @property
    def open(self) -> int:
        return sum(1 for call in self.calls.values() if call.live)

    @property
    def talking(self) -> int:
        return sum(1 for call in self.calls.values() if call.live and call.media_s is not None)

    def fates(self, fate: Fate) -> list[Placed]:
        return [call for call in self.calls.values() if call.fate == fate]

    def ask(self, direction: Literal["inbound", "outbound"], call_s: int) -> None:
        """One more call."""
        number = str(next(self._numbers))
        behaviour = callee(call_s)
        self._sim.put(f"/sim/callees/{number}", json=behaviour).raise_for_status()
        placed = Placed(direction, number, self.now_s())
        if direction == "inbound":
            self._sim.post("/sim/inbound", json={"from": number, "to": "12025550100"}).raise_for_status()
        else:
            self._place(placed)
        self.calls[number] = placed

    def _place(self, placed: Placed) -> None:
        try:
            answer = self._api.post("/api/v1/calls", json={"to": f"+{placed.number}", "agent": "brief"})
            problem = None if answer.status_code == 201 else f"HTTP {answer.status_code}"
        except httpx.HTTPError as error:
            problem = type(error).__name__
        if problem is not None:
            placed.fate, placed.detail, placed.ended_s = "refused", problem, self.now_s()

    def poll(self) -> None:
        """Learn from the network what became of every call."""
        with contextlib.suppress(httpx.HTTPError):
            for seen in self._sim.get("/sim/calls").json()["calls"]:
                number = seen["to"] if seen["direction"] == "outbound" else seen["from"]
                if number in self.calls:
                    self.seen_by_network[number] = seen
                    self._follow(self.calls[number], seen)

    def settle_unplaced(self) -> None:
        """Outbound calls that the dialer gave up never reach the network; the platform's record says so."""
        waiting = [call for call in self.calls.values() if call.live and call.number not in self.seen_by_network]
        if not waiting:
            return
        with contextlib.suppress(httpx.HTTPError):
            records = self._api.get("/api/v1/calls", params={"limit": 100}).json()["items"]
            by_number = {str(record["to"]).lstrip("+"): record for record in records}
            for call in waiting:
                record = by_number.get(call.number)
                if record is not None and record["status"] in ("completed", "failed"):
                    call.fate, call.detail, call.ended_s = "not_placed", str(record["outcome"]), self.now_s()

    def _follow(self, call: Placed, seen: dict[str, Any]) -> None:
        now_s, media = self.now_s(), seen["media"]
        if media is not None:
            if call.media_s is None and media["duration_ms"]:
                call.media_s = now_s - media["duration_ms"] / 1000
            call.underruns = media["underruns"]
            if media["first_agent_frame_ms"] is not None:
                call.first_audio_s = media["first_agent_frame_ms"] / 1000
        if call.live and seen["over"]:
            call.ended_s = now_s
            call.fate, call.detail = _fate(seen)


def _fate(seen: dict[str, Any]) -> tuple[Fate, str]:
    if any(REFUSAL in text for text in seen["talk_texts"]):
        return "refused", "spoken apology"
    media = seen["media"]
    if media is None:
        return "cut", seen["problem"] or f"never had media: {seen['statuses']}"
    if seen["disconnected_by"] == "user" and media["end"] == "near_closed":
        return "completed", ""
    return "cut", f"{media['end']} with close code {media['close_code']}: {seen['problem'] or ''}"
