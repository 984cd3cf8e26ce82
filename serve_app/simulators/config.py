"""The document that configures the stand-ins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.errors import SettingsError
from serve_app.simulators.latency import Constant, LatencyConfig
from serve_app.simulators.network_config import NetworkConfig

LOAD_LATENCY: dict[str, dict[str, Any]] = {
    name: {"kind": "constant", "ms": ms}
    for name, ms in {
        "stt_connect": 30,
        "stt_start_of_turn": 220,
        "stt_end_of_turn": 400,
        "stt_processing": 0,
        "llm_first_token": 250,
        "llm_inter_token": 2,
        "tts_connect": 30,
        "tts_first_audio": 150,
    }.items()
}
"""The `load` profile's delays: 400 ms from the end of a turn to the first audio are the providers'."""


class SimulatorConfig(BaseModel):
    """One process of stand-ins. Every field has a default that resembles the real provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: Literal["realistic", "load"] = "realistic"
    """`load`: defaults for measurements. Fixed latencies (see `LOAD_LATENCY`), nothing is recognised or kept."""
    seed: int = 1
    latency: LatencyConfig = LatencyConfig()
    rejected_keys: tuple[str, ...] = ("invalid",)
    """Keys that are answered with 401. Any other key that is not empty is accepted."""

    stt_idle_close_s: float = Field(10, gt=0)
    """Flux closes a socket that gets no audio; users report 10 s."""
    stt_keep_audio_calls: int = Field(64, ge=0)
    """For how many calls the received audio is kept for `GET /sim/calls/{id}/stt_audio`. 0 in load tests."""
    recognise: bool = True
    """Whether speech without a script is recognised (pocketsphinx); otherwise it is `[unintelligible]`."""
    stt_default_script: tuple[str, ...] = ()
    """What a call says that nobody announced: turn i of its stream is text i, from the first again after the last."""

    llm_models: tuple[str, ...] = ("openai/gpt-oss-20b", "openai/gpt-oss-120b", "gpt-5.4-mini")
    llm_retired_models: tuple[str, ...] = ("llama-3.3-70b-versatile", "llama-3.1-8b-instant")
    llm_requests_per_minute: int | None = Field(None, ge=1)
    """Beyond it: 429 with retry-after. None: no limit."""
    llm_script: dict[str, str] = Field(default_factory=dict)
    """Fixed replies by the text of the last user message; what is not in it is answered from the agent's facts."""
    llm_default_reply: str | None = None
    """The reply to everything that `llm_script` does not know. None: from the facts."""

    tts_models: tuple[str, ...] = ("sonic-3", "sonic-3.5", "sonic-latest", "sonic-3-2026-01-12", "sonic-3.5-2026-05-04")
    tts_sunset_models: tuple[str, ...] = ("sonic", "sonic-english", "sonic-multilingual", "sonic-2", "sonic-turbo")
    tts_concurrency: int | None = Field(None, ge=1)
    """Active contexts of the account; beyond it a context gets an error with status 429. None: no limit."""
    tts_idle_close_s: float = Field(300, gt=0)
    tts_context_expiry_s: float = Field(1.0, gt=0)
    """A context is closed this long after its last audio."""
    tts_realtime_factor: float = Field(6, gt=0)
    """How much faster than speech the audio is delivered."""
    tts_prepared: tuple[str, ...] = ()
    """Texts spoken once at the start, whole and by sentence; others are spoken on first use. Replies of the script
    are prepared anyway."""

    network: NetworkConfig | None = None
    """The phone network: the account that it knows. None: only the AI providers are simulated."""

    @property
    def fixed_wait_ms(self) -> float | None:
        """From the callee's last sound to the first audio, by the stand-ins alone; None where it is not fixed."""
        latency = self.latency
        steps = (latency.stt_end_of_turn, latency.stt_processing, latency.llm_first_token, latency.tts_first_audio)
        waits = [step.ms for step in steps if isinstance(step, Constant)]
        return sum(waits) if len(waits) == len(steps) else None

    @model_validator(mode="before")
    @classmethod
    def _apply_profile(cls, document: Any) -> Any:
        if not isinstance(document, dict) or document.get("profile") != "load":
            return document
        latency = document.get("latency", {})
        if isinstance(latency, dict):
            latency = {**LOAD_LATENCY, **latency}
        return {"recognise": False, "stt_keep_audio_calls": 0, **document, "latency": latency}


def load_config(path: Path | None) -> SimulatorConfig:
    """The configuration in a YAML file, or the default one. Raises SettingsError.

    `SIMULATORS_PROFILE` in the environment is the profile of a file that names none: local platforms write the file
    themselves.
    """
    try:
        document = {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if isinstance(document, dict) and os.environ.get("SIMULATORS_PROFILE"):
            document = {"profile": os.environ["SIMULATORS_PROFILE"], **document}
        return SimulatorConfig.model_validate(document)
    except (OSError, yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"simulator configuration {path}: {error}") from error
