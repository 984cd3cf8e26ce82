"""How long the stages of a reply may take. Their names are those of every turn's record (docs/latency.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Excess = Literal["target", "limit"]


class Budget(BaseModel):
    """Milliseconds. Above `target_ms` a stage is slow, above `limit_ms` something is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target_ms: float = Field(gt=0, le=60_000)
    limit_ms: float = Field(gt=0, le=60_000)

    @model_validator(mode="after")
    def _target_below_limit(self) -> Budget:
        if self.target_ms > self.limit_ms:
            raise ValueError(
                f"target_ms ({self.target_ms:g}) is above limit_ms ({self.limit_ms:g}); lower it, or raise the limit"
            )
        return self

    def excess(self, ms: float) -> Excess | None:
        """What `ms` is above; None: it is within the target."""
        if ms <= self.target_ms:
            return None
        return "target" if ms <= self.limit_ms else "limit"


class LatencyBudgets(BaseModel):
    """Of the stages that a provider answers for, and of the whole wait."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stt_ms: Budget = Budget(target_ms=260, limit_ms=300)
    llm_ms: Budget = Budget(target_ms=50, limit_ms=100)
    tts_ms: Budget = Budget(target_ms=90, limit_ms=150)
    total_ms: Budget = Budget(target_ms=400, limit_ms=700)

    def excesses(self, measured: Mapping[str, float | None]) -> dict[str, Excess]:
        """Stage -> what it is above, of those stages that are above anything."""
        found: dict[str, Excess] = {}
        for stage in BUDGETED:
            ms = measured[stage]
            if ms is not None and (excess := getattr(self, stage).excess(ms)) is not None:
                found[stage] = excess
        return found


BUDGETED = tuple(LatencyBudgets.model_fields)
