"""The agent definition: an immutable, versioned document that says who speaks and how.

A call stores the agent's name and version and carries the resolved document in its lease, so that a session looks
nothing up.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]


class AgentLimits(BaseModel):
    """Bounds of one call. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_duration_s: float = Field(600, gt=0, le=7200)
    max_turns: int = Field(60, ge=1, le=1000)
    silence_timeout_s: float = Field(20, gt=0, le=300, description="no speech of either side before the goodbye")
    max_reply_tokens: int = Field(400, ge=50, le=8000)


class AgentPolicies(BaseModel):
    """What the agent may and may not do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    interruptible: bool = True
    end_phrases: tuple[str, ...] = ("goodbye", "bye", "good bye", "bye bye")
    farewell: Text = "Thank you for your time. Goodbye."
    apology: Text = "I am sorry, I am having trouble on my side. Could you say that again?"
    failure_farewell: Text = "I am sorry, we have a technical problem. We will call you back. Goodbye."


class AgentDefinition(BaseModel):
    """One version of an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    business: Text
    language: Literal["en", "es", "fr"] = "en"
    voice: str | None = Field(None, max_length=200, description="the synthesizer's voice id; None: the configured one")
    opening: Text = Field(description="the first thing that the callee hears, word for word")
    system_prompt: Text
    knowledge: tuple[Text, ...] = ()
    policies: AgentPolicies = AgentPolicies()
    limits: AgentLimits = AgentLimits()

    def instructions(self) -> str:
        """The system message: prompt, knowledge lines, and what holds on every phone call."""
        lines = [self.system_prompt, "", f"You speak for {self.business}, on the phone, in language '{self.language}'."]
        if self.knowledge:
            lines += ["", "Facts you know:", *(f"- {fact}" for fact in self.knowledge)]
        lines += ["", "Answer in one or two short spoken sentences. No lists, no markdown. If you do not know, say so."]
        return "\n".join(lines)
