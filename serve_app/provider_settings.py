"""The settings of the providers: a section for each, and for each stage the entries that take over from the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator


def empty_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


OptionalText = Annotated[str | None, BeforeValidator(empty_is_none)]
OptionalSecret = Annotated[SecretStr | None, BeforeValidator(empty_is_none)]


class Section(BaseModel):
    """A branch of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DeepgramSettings(Section):
    api_key: OptionalSecret = None
    base_url: str = "https://api.deepgram.com"
    websocket_url: str = "wss://api.deepgram.com"
    model: str = "flux-general-en"
    eot_threshold: float = Field(0.7, ge=0.5, le=1.0)
    eager_eot_threshold: float = Field(
        0.5, ge=0.3, le=0.9, description="from here on a turn may be over; used where call.speculation is on"
    )
    eot_timeout_ms: int = Field(3000, ge=500, le=60000)
    connect_timeout_s: float = Field(4, gt=0)
    mip_opt_out: bool = True

    @model_validator(mode="after")
    def _eager_comes_before_the_end(self) -> Self:
        if self.eager_eot_threshold > self.eot_threshold:
            # Flux answers the handshake with HTTP 400.
            raise ValueError(
                f"eager_eot_threshold ({self.eager_eot_threshold:g}) is above eot_threshold ({self.eot_threshold:g}); "
                "lower eager_eot_threshold"
            )
        return self


class GroqSettings(Section):
    api_key: OptionalSecret = None
    base_url: str = "https://api.groq.com"
    model: str = "openai/gpt-oss-20b"
    reasoning_effort: Literal["none", "low", "medium", "high"] | None = "low"
    temperature: float | None = Field(0.6, ge=0, le=2)
    connect_timeout_s: float = Field(2, gt=0)
    token_timeout_s: float = Field(4, gt=0, description="longest wait for the first and for each following token")


class OpenAISettings(Section):
    """Any OpenAI-compatible server: `base_url` includes `/v1`."""

    api_key: OptionalSecret = None
    base_url: str = "https://api.openai.com/v1"
    model: str = "gpt-5.4-mini"
    temperature: float | None = Field(None, ge=0, le=2)
    connect_timeout_s: float = Field(2, gt=0)
    token_timeout_s: float = Field(4, gt=0)

    @property
    def own_server(self) -> bool:
        """A compatible server of one's own (vLLM, Ollama), which often wants no key."""
        return bool(self.base_url != OpenAISettings.model_fields["base_url"].default)


class CartesiaSettings(Section):
    api_key: OptionalSecret = None
    base_url: str = "https://api.cartesia.ai"
    websocket_url: str = "wss://api.cartesia.ai"
    model: str = "sonic-3"
    voice: OptionalText = None
    connect_timeout_s: float = Field(4, gt=0)
    audio_timeout_s: float = Field(4, gt=0, description="longest wait for the first and for each following chunk")


class ProviderSettings(Section):
    deepgram: DeepgramSettings = DeepgramSettings()
    groq: GroqSettings = GroqSettings()
    openai: OpenAISettings = OpenAISettings()
    cartesia: CartesiaSettings = CartesiaSettings()

    def without_key(self, name: str) -> bool:
        """No key is set for this provider, and it needs one."""
        if name == "openai" and self.openai.own_server:
            return False
        return getattr(self, name).api_key is None


SttName = Literal["deepgram"]
LlmName = Literal["groq", "openai"]
TtsName = Literal["cartesia"]
StageKey = Literal["speech_to_text", "language_model", "text_to_speech"]
STAGE_KEYS: tuple[StageKey, ...] = ("speech_to_text", "language_model", "text_to_speech")


class Fallback(Section):
    """A provider, and what of its section under `providers` is different here."""

    provider: str
    api_key: OptionalSecret = None
    base_url: OptionalText = None
    model: OptionalText = None

    def applied_to(self, providers: ProviderSettings) -> ProviderSettings:
        changes = {name: value for name, value in self if name != "provider" and value is not None}
        section: Section = getattr(providers, self.provider)
        return providers.model_copy(update={self.provider: section.model_copy(update=changes)})


class SttFallback(Fallback):
    provider: SttName
    websocket_url: OptionalText = None


class LlmFallback(Fallback):
    provider: LlmName


class TtsFallback(Fallback):
    provider: TtsName
    websocket_url: OptionalText = None
    voice: OptionalText = None


class FallbackSettings(Section):
    """Who takes a turn over when a stage fails or is late, in this order. None: nobody."""

    speech_to_text: tuple[SttFallback, ...] = ()
    language_model: tuple[LlmFallback, ...] = ()
    text_to_speech: tuple[TtsFallback, ...] = ()
    avoid_failed_s: float = Field(
        30, ge=0, le=3600, description="so long after a failure a turn does not begin with the entry that failed"
    )


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """One entry of a stage's list."""

    stage: StageKey
    place: int
    """0: the first."""
    name: str
    providers: ProviderSettings
    """The sections as this entry has them."""

    @property
    def label(self) -> str:
        return self.name if self.place == 0 else f"{self.name} (fallbacks.{self.stage}.{self.place - 1})"


def entries_of(
    stage: StageKey, first: str, providers: ProviderSettings, fallbacks: FallbackSettings
) -> Iterator[ProviderEntry]:
    """A stage's list, the first entry first."""
    yield ProviderEntry(stage, 0, first, providers)
    rest: tuple[Fallback, ...] = getattr(fallbacks, stage)
    for place, entry in enumerate(rest, start=1):
        yield ProviderEntry(stage, place, entry.provider, entry.applied_to(providers))
