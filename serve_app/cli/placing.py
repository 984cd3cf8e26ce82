"""Placing one call on the simulated network and following it to its end: the work behind `demo` and `call`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serve_app.cli.client import ApiClient, ApiError, SimulatorClient, api_key
from serve_app.errors import ParleyError

RECORDING_TIMEOUT_S = 30.0
POLL_S = 0.25

LiveEvent = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expectations:
    """What must be true of a call for it to have gone as the scenario says."""

    outcomes: frozenset[str]
    callee_turns: int = 0
    interruptions: int = 0


@dataclass(frozen=True, slots=True)
class PlacedCall:
    """Everything about an ended call, from the platform's API and from the network's side."""

    call: dict[str, Any]
    turns: list[dict[str, Any]]
    recording: dict[str, Any] | None
    network: dict[str, Any] | None
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        recording = self.recording
        return {
            "call_id": self.call["id"],
            "outcome": self.call["outcome"],
            "duration_s": self.call["duration_s"],
            "turns": [
                {name: turn[name] for name in ("role", "text", "heard_text", "approximate", "started_ms", "latency")}
                for turn in self.turns
            ],
            "recording": recording
            and {
                "path": recording["path"] or recording["download_url"],
                **{name: recording[name] for name in ("channels", "sample_rate_hz", "duration_s")},
            },
            "problems": self.problems,
        }


async def place_call(
    url: str,
    health: dict[str, Any],
    *,
    to: str,
    agent: str | None,
    behaviour: dict[str, Any],
    expected: Expectations,
    on_event: Callable[[LiveEvent], None],
) -> PlacedCall:
    """Set the callee's behaviour, call, follow, collect, judge. Raises ParleyError if it cannot be placed at all."""
    simulators = health["runtime"].get("simulators_url")
    if not health["simulated_network"] or simulators is None:
        raise ParleyError(
            "this platform is connected to a real phone network; the demonstration calls a simulated callee only. "
            "Place real calls with POST /api/v1/calls"
        )
    async with ApiClient(url, await api_key()) as api, SimulatorClient(simulators) as network:
        await network.set_callee(to, behaviour)
        created = await api.post("/api/v1/calls", {"to": to, **({"agent": agent} if agent else {})})
        call_id = created["id"]
        async for event in api.events(call_id):
            on_event(event)
        call = await api.get(f"/api/v1/calls/{call_id}")
        turns = (await api.get(f"/api/v1/calls/{call_id}/transcript"))["turns"]
        recording = await _recording(api, call) if call["started_at"] else None
        side = await network.call(call_id)
    return PlacedCall(call, turns, recording, side, _judge(call, turns, recording, expected))


async def _recording(api: ApiClient, call: dict[str, Any]) -> dict[str, Any] | None:
    """The recording's row; it is mixed after the call."""
    deadline = time.monotonic() + RECORDING_TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            found = await api.find(f"/api/v1/calls/{call['id']}/recording")
        except ApiError:
            found = None
        if found is not None:
            return found
        await asyncio.sleep(POLL_S)
    return None


def _judge(
    call: dict[str, Any], turns: list[dict[str, Any]], recording: dict[str, Any] | None, expected: Expectations
) -> list[str]:
    problems = []
    if call["outcome"] not in expected.outcomes:
        problems.append(
            f"outcome {call['outcome']} ({call['detail'] or 'no detail'}), expected {' or '.join(expected.outcomes)}"
        )
    spoken = sum(turn["role"] == "callee" for turn in turns)
    if spoken < expected.callee_turns:
        problems.append(f"{spoken} turns of the callee, expected at least {expected.callee_turns}")
    cut = sum(turn["role"] == "agent" and turn["interrupted"] for turn in turns)
    if cut < expected.interruptions:
        problems.append(f"{cut} interrupted turns of the agent, expected at least {expected.interruptions}")
    if recording is None:
        problems.append("no recording")
    elif recording["channels"] != 2:
        problems.append(f"the recording has {recording['channels']} channels, expected 2")
    return problems
