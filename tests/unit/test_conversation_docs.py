"""The agent in docs/conversation.md loads, and shows the defaults that it says it shows."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from serve_app.conversation.agent import AgentDefinition, AgentLimits, AgentPolicies, InterruptionPolicy

PAGE = Path(__file__).parents[2] / "docs" / "conversation.md"


def test_the_example_loads_and_shows_the_defaults() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    agent = AgentDefinition.model_validate(yaml.safe_load(example))
    assert agent.limits == AgentLimits()
    own_words = {"always": (), "backchannels": ()}
    assert agent.policies.interruption.model_copy(update=own_words) == InterruptionPolicy()
    for name in ("interruptible", "opening_interruptible", "opt_out_key", "speculate"):
        assert getattr(agent.policies, name) == getattr(AgentPolicies(), name)
    assert {*AgentLimits.model_fields, *InterruptionPolicy.model_fields, "speculate"} <= set(
        re.findall(r"\w+", example)
    )
