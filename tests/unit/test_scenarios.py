"""The scenarios of tests/scenarios on virtual time, each as `parley simulate` plays it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.scenarios.loading import find_scenarios, load_scenario
from serve_app.scenarios.runner import play
from serve_app.scenarios.steps import Fault

FILES = find_scenarios(Path(__file__).parents[1] / "scenarios")


def test_there_is_a_scenario_for_every_part_of_a_conversation() -> None:
    assert len(FILES) >= 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_goes_as_written(file: Path) -> None:
    scenario = load_scenario(file)
    played = play(scenario)
    assert not played.failures, "\n".join(played.failures)
    if not any(isinstance(step, Fault) and step.fault.stage == "tts" for step in scenario.steps):
        assert played.underruns == 0, "gaps inside the agent's speech"


def test_the_example_of_the_manual_goes_as_written(tmp_path: Path) -> None:
    manual = Path(__file__).parents[2] / "docs" / "scenarios.md"
    file = tmp_path / "example.yaml"
    file.write_text(manual.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    played = play(load_scenario(file))
    assert not played.failures, "\n".join(played.failures)
