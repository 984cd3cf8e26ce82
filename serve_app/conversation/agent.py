"""The agent definition: an immutable, versioned document that says who speaks and how.

A call stores the agent's name and version and carries the resolved document in its lease, so that a session looks
nothing up.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from serve_app.conversation import variables
from serve_app.conversation.phrases import Language, LineName, phrases_of

TEXT_CHARS = 4000
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=TEXT_CHARS)]
Template = Annotated[Text, AfterValidator(partial(variables.check, most_chars=TEXT_CHARS))]
"""May have variables: `conversation.variables`."""


class AgentLimits(BaseModel):
    """Bounds of one call. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_duration_s: float = Field(600, gt=0, le=7200)
    duration_warning_s: float = Field(30, ge=0, le=600, description="told so long before max_duration_s; 0: never")
    max_turns: int = Field(60, ge=1, le=1000)
    silence_timeout_s: float = Field(
        8, gt=0, le=300, description="no speech of either side before the question whether somebody is there"
    )
    silence_prompts: int = Field(2, ge=0, le=10, description="questions in a row without an answer before the goodbye")
    max_reply_tokens: int = Field(400, ge=50, le=8000)
    max_history_tokens: int = Field(
        6000, ge=500, le=200_000, description="of the talk, by estimate; beyond it the model no longer sees old turns"
    )


class InterruptionPolicy(BaseModel):
    """What counts as an interruption of the agent's speech. Words are compared without case and punctuation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: int = Field(
        2, ge=0, le=10, description="words that stop the agent; 0: the beginning of speech does, before any word"
    )
    always: tuple[str, ...] = Field((), description="besides the language's own: words that alone stop the agent")
    backchannels: tuple[str, ...] = Field((), description="besides the language's own: words that never stop the agent")
    resume_after_s: float = Field(
        1.5, gt=0, le=10, description="without a word so long after the agent fell silent, it goes on where it stopped"
    )


class AgentLines(BaseModel):
    """Fixed texts, spoken word for word. One that is not set is the language's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fillers: tuple[Text, ...] = Field((), description="said in turn while a reply is late")
    apology: Text | None = None
    still_there: Text | None = None
    duration_warning: Text | None = None
    farewell: Text | None = None
    failure_farewell: Text | None = None
    opted_out: Text | None = None


class AgentPolicies(AgentLines):
    """What the agent may and may not do."""

    interruptible: bool = True
    opening_interruptible: bool = Field(False, description="the opening holds what the law wants said")
    interruption: InterruptionPolicy = InterruptionPolicy()
    end_phrases: tuple[str, ...] = Field((), description="goodbyes besides the language's own")
    opt_out_key: Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "*", "#"] | None = "9"
    opt_out_phrases: tuple[str, ...] = Field((), description="besides the language's own")
    speculate: bool = Field(True, description="begin the answer when a turn may be over, and drop it when it was not")


class LanguageVariant(AgentLines):
    """The agent in another language that the callee may ask for."""

    voice: str | None = Field(None, max_length=200)


class AgentDefinition(BaseModel):
    """One version of an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    business: Text
    language: Language = "en"
    languages: Mapping[Language, LanguageVariant] = Field(
        default_factory=dict, description="languages to which the callee may switch, besides `language`"
    )
    voice: str | None = Field(None, max_length=200, description="the synthesizer's voice id; None: the configured one")
    opening: Template = Field(description="the first thing that the callee hears, word for word")
    inbound_opening: Template | None = Field(None, description="the opening for who calls us; None: the same")
    prepare_opening: bool = Field(True, description="make its speech before the first call; with variables it is not")
    system_prompt: Template
    knowledge: tuple[Template, ...] = ()
    policies: AgentPolicies = AgentPolicies()
    limits: AgentLimits = AgentLimits()

    @model_validator(mode="after")
    def _own_language_is_no_variant(self) -> Self:
        if self.language in self.languages:
            raise ValueError(f"languages: {self.language!r} is the agent's own language; set its lines under policies")
        return self

    def for_call(self, values: Mapping[str, str], *, inbound: bool) -> AgentDefinition:
        """The agent as one call has it: the opening of its direction, and every variable filled in."""
        opening = self.inbound_opening if inbound and self.inbound_opening is not None else self.opening
        return self.model_copy(
            update={
                "opening": variables.render(opening, values),
                "inbound_opening": None,
                "prepare_opening": self.prepare_opening and not variables.has_variables(opening),
                "system_prompt": variables.render(self.system_prompt, values),
                "knowledge": tuple(variables.render(fact, values) for fact in self.knowledge),
            }
        )

    def prepared_openings(self) -> tuple[str, ...]:
        """Those whose speech is made beforehand: the same for every callee."""
        both = (self.opening, self.inbound_opening)
        fixed = (text for text in both if text is not None and not variables.has_variables(text))
        return tuple(fixed) if self.prepare_opening else ()

    def line(self, name: LineName, language: Language | None = None) -> str:
        """A fixed text in a language of the agent's; None: its own."""
        text: str | None = getattr(self._lines(language), name)
        return text or phrases_of(language or self.language).lines[name]

    def fillers(self, language: Language | None = None) -> tuple[str, ...]:
        return self._lines(language).fillers or phrases_of(language or self.language).fillers

    def voice_in(self, language: Language) -> str | None:
        return self.voice if language == self.language else self.languages[language].voice or self.voice

    def _lines(self, language: Language | None) -> AgentLines:
        return self.policies if language is None or language == self.language else self.languages[language]

    def instructions(self, language: Language | None = None) -> str:
        """The system message: prompt, knowledge lines, and what holds on every phone call."""
        name = phrases_of(language or self.language).name
        lines = [self.system_prompt, "", f"You speak for {self.business}, on the phone, in {name}."]
        if self.knowledge:
            lines += ["", "Facts you know:", *(f"- {fact}" for fact in self.knowledge)]
        lines += ["", "Answer in one or two short spoken sentences. No lists, no markdown. If you do not know, say so."]
        return "\n".join(lines)
