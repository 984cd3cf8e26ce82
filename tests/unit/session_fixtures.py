"""A whole call in one process on virtual time, with an agent for tests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import CallResult
from serve_app.conversation.lines import make_lines
from serve_app.conversation.turn_types import TurnCommand
from serve_app.providers.base import AudioFormat
from serve_app.scenarios.checks import UNEXPLAINED_S, causes_within
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.record import Utterance
from serve_app.scenarios.runner import untruths
from serve_app.scenarios.scripted_llm import LlmPlan
from serve_app.scenarios.scripted_stt import SttPlan
from serve_app.scenarios.scripted_tts import CHAR_S, TtsPlan
from serve_app.scenarios.virtual_call import Call, VirtualCall, lease_of
from serve_app.scenarios.virtual_network import now
from serve_app.scenarios.virtual_time import run_virtual
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

    def prepare_lines(self) -> None:
        """As every call but an agent's first finds them. The synthesizer's plans are for what is spoken live."""
        plans, self.tts.plans = self.tts.plans, []
        audio = AudioFormat("linear16", RATE)
        run_virtual(make_lines(self.lines, self.tts, lease_of(self.agent, "").tenant_id, self.agent, audio))
        self.tts.plans = plans

    def play(
        self: Call, callee: Callable[[Call], Awaitable[None]] | None = None, *, limit_s: float = 300
    ) -> CallResult:
        """Of every call: its transcript tells what the callee's ear heard, and each long silence has a cause."""
        result = super().play(callee, limit_s=limit_s)
        if not self.memory.broken:
            self.record.finish(result, self.memory.turns, self.memory.opt_outs)
            assert self.record.problems == []
            assert list(untruths(self.record.utterances, self.net)) == []
        for silence in self.record.silence.silences if self.connects else ():
            explained = causes_within(self.record, silence.start, silence.end)
            assert explained or silence.seconds <= UNEXPLAINED_S, f"{silence} has no recorded cause"
        return result

    @property
    def utterances(self) -> list[Utterance]:
        """The agent's, in the order in which they were heard."""
        return self.record.utterances

    def agent_heard(self) -> list[str]:
        return [text for role, text in self.memory.texts() if role == "agent"]

    def turn_ends(self) -> list[float]:
        """On the call's clock."""
        return [at - self.net.opened_at for at in self.stt.turn_ends]

    def commands(self, *kinds: type[TurnCommand]) -> list[tuple[float, TurnCommand]]:
        """The turn machine's, with their times on the call's clock."""
        return [
            (at, command) for at, _, commands in self.record.turns for command in commands if isinstance(command, kinds)
        ]
