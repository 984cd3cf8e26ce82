"""A whole call in one process on virtual time, with an agent for tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from serve_app.conversation.agent import AgentDefinition
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.scripted_llm import LlmPlan
from serve_app.scenarios.scripted_stt import SttPlan
from serve_app.scenarios.scripted_tts import CHAR_S, TtsPlan
from serve_app.scenarios.virtual_call import VirtualCall
from serve_app.scenarios.virtual_network import now
from serve_app.scenarios.vocabulary import FRAME_BYTES as FRAME
from serve_app.scenarios.vocabulary import RATE_HZ as RATE

__all__ = [
    "CHAR_S",
    "FRAME",
    "OPENING",
    "RATE",
    "LlmPlan",
    "Memory",
    "Scene",
    "SttPlan",
    "TtsPlan",
    "make_agent",
    "now",
]

OPENING = "Hello, this is the test agent. How are you?"


def make_agent(**changes: object) -> AgentDefinition:
    document: dict[str, object] = {
        "name": "test-agent",
        "business": "Test",
        "opening": OPENING,
        "system_prompt": "You test.",
        **changes,
    }
    return AgentDefinition.model_validate(document)


@dataclass
class Scene(VirtualCall):
    """One call with its surroundings."""

    agent: AgentDefinition = field(default_factory=make_agent)
