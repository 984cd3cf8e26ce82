"""The same conversation on virtual time and on the wire: one order of the turn machine's events and commands.

Real time, real sockets, the real clients: some seconds for each scenario.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve_app.scenarios.loading import find_scenarios, load_scenario
from serve_app.scenarios.record import order
from serve_app.scenarios.runner import play
from serve_app.scenarios.wire import play_on_the_wire

FOLDER = Path(__file__).parents[1] / "scenarios"
WIRED = [file for file in find_scenarios(FOLDER) if load_scenario(file).wire]


def test_some_scenarios_are_for_the_wire() -> None:
    assert 4 <= len(WIRED) <= 6
    names = {file.stem for file in WIRED}
    assert {"barge-in-middle", "goodbye", "opt-out-key", "silence"} <= names


@pytest.mark.parametrize("file", WIRED, ids=lambda file: file.stem)
def test_both_runs_have_one_order_of_events(file: Path) -> None:
    scenario = load_scenario(file)
    wired = asyncio.run(play_on_the_wire(scenario))
    assert not wired.failures, "\n".join(wired.failures)
    virtual = play(scenario)
    assert len(order(virtual.record)) > 5
    assert order(wired.record) == order(virtual.record)
