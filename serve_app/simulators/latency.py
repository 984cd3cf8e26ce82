"""Latency distributions: what the stand-ins draw their delays from. Seeded, so that a run can be repeated."""

from __future__ import annotations

import math
import random
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constant(_Document):
    kind: Literal["constant"] = "constant"
    ms: float = Field(ge=0)

    def draw_ms(self, rng: random.Random) -> float:
        return self.ms


class Normal(_Document):
    """Normal, cut off at zero."""

    kind: Literal["normal"] = "normal"
    mean_ms: float = Field(ge=0)
    sd_ms: float = Field(ge=0)

    def draw_ms(self, rng: random.Random) -> float:
        return max(0.0, rng.gauss(self.mean_ms, self.sd_ms))


class LogNormal(_Document):
    """Log-normal by its median and 95th percentile, the two figures that providers publish."""

    kind: Literal["lognormal"] = "lognormal"
    median_ms: float = Field(gt=0)
    p95_ms: float = Field(gt=0)

    def draw_ms(self, rng: random.Random) -> float:
        # The 95th percentile of the standard normal distribution is 1.6449.
        sigma = max(0.0, math.log(self.p95_ms / self.median_ms) / 1.6449)
        return rng.lognormvariate(math.log(self.median_ms), sigma)


Distribution = Annotated[Constant | Normal | LogNormal, Field(discriminator="kind")]


class LatencyConfig(_Document):
    """Delays of the stand-ins, in milliseconds."""

    stt_connect: Distribution = Constant(ms=30)
    stt_start_of_turn: Distribution = Normal(mean_ms=220, sd_ms=30)
    """Audio time from the first voice to StartOfTurn: the first word must be heard before it is one."""
    stt_end_of_turn: Distribution = Normal(mean_ms=420, sd_ms=60)
    """Silence of audio time after which the confidence of an end of turn reaches 0.7."""
    stt_processing: Distribution = Constant(ms=20)
    """Wall time between audio and the message about it."""
    llm_first_token: Distribution = LogNormal(median_ms=180, p95_ms=350)
    llm_inter_token: Distribution = Constant(ms=2)
    tts_connect: Distribution = Constant(ms=30)
    tts_first_audio: Distribution = LogNormal(median_ms=90, p95_ms=180)


class Delays:
    """Draws from the distributions of one configuration with one seed."""

    def __init__(self, config: LatencyConfig, seed: int) -> None:
        self._config = config
        self._rng = random.Random(seed)

    def draw_s(self, name: str) -> float:
        """Seconds drawn from the distribution that LatencyConfig names `name`."""
        distribution: Constant | Normal | LogNormal = getattr(self._config, name)
        return distribution.draw_ms(self._rng) / 1000
