"""What a person says of a number of ours: the body of a request, or the options of a command."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from serve_app.conversation.agent import Name
from serve_app.dialing.campaign_spec import PoolName
from serve_app.store.numbers import DAILY_CAP, DEFAULT_POOL

Region = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}-[A-Z0-9]{1,3}$")]


class NumberSpec(BaseModel):
    """A number to call from. What is left out has its default: it is stored as a whole, in place of what was."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pool: PoolName = Field(DEFAULT_POOL, description="campaigns name one as their number_pool")
    region: Region | None = Field(
        None, description="ISO 3166-2, such as US-CA: leads of that region are called from it first"
    )
    attestation: Literal["A", "B", "C"] | None = Field(None, description="of STIR/SHAKEN, for the record")
    agent: Name | None = Field(None, description="who answers it; without it, the agent of the settings")
    daily_cap: int = Field(DAILY_CAP, ge=1, le=100_000, description="calls in 24 hours")
    warmup_from: AwareDatetime | None = Field(
        None, description="from then on the cap grows from a fifth to the whole in 14 days"
    )
