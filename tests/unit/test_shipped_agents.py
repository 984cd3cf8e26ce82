"""The agents that are shipped: their openings say what has to be said before anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serve_app.conversation.agent import AgentDefinition

AGENTS = sorted(Path("configs/agents").glob("*.yaml"))


@pytest.mark.parametrize("file", AGENTS, ids=lambda file: file.stem)
def test_the_opening_says_who_calls_that_it_is_an_ai_the_recording_and_how_to_opt_out(file: Path) -> None:
    agent = AgentDefinition.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert agent.policies.opt_out_key == "9"
    # Who calls us back is told the same, and can get off the list as well.
    for text in (agent.opening, agent.for_call({}, inbound=True).opening):
        opening = text.casefold()
        assert agent.business.casefold() in opening
        assert " ai " in opening
        assert "recorded" in opening
        assert "press nine" in opening
    assert not agent.policies.opening_interruptible


def test_there_is_one() -> None:
    assert AGENTS
