"""What a person writes down of a campaign: the body of a request, or a YAML file. Validated once, stored as it is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serve_app.conversation.agent import Name
from serve_app.dialing.retry import RetryPolicy
from serve_app.dialing.rules import CallingRules
from serve_app.dialing.texts import PLAIN_TEXT

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=PLAIN_TEXT)]
Words = Annotated[str, StringConstraints(max_length=2000, pattern=PLAIN_TEXT)]
PoolName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]


class CampaignSpec(BaseModel):
    """A campaign. `calling_rules.countries` has to be given: nobody is called by omission."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Title = Field(description="unique among the campaigns of the tenant", examples=["spring-recall"])
    description: Words = ""
    goal: Words = Field("", description="what a successful call achieves, for people and for the agent")
    agent: Name = Field(description="the name of an agent")
    agent_version: int | None = Field(None, ge=1, description="without it, the newest at the time of each call")
    calling_rules: CallingRules
    retry_policy: RetryPolicy = RetryPolicy()
    number_pool: PoolName | None = Field(None, description="which of our numbers call; without it, all of them")
    weight: int = Field(1, ge=1, le=100, description="its share of the calls, beside other campaigns of the tenant")
    max_concurrent: int | None = Field(None, ge=1, le=10_000, description="calls at a time")
    daily_calls: int | None = Field(None, ge=1, le=10_000_000, description="calls a day (UTC)")
    spend_cap_minor: int | None = Field(None, ge=1, description="what all its calls may cost, in cents")


class CampaignChange(BaseModel):
    """Fields of a campaign to change; the others stay. Documents are replaced as a whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Title | None = None
    description: Words | None = None
    goal: Words | None = None
    agent: Name | None = None
    agent_version: int | None = Field(None, ge=1)
    calling_rules: CallingRules | None = None
    retry_policy: RetryPolicy | None = None
    number_pool: PoolName | None = None
    weight: int | None = Field(None, ge=1, le=100)
    max_concurrent: int | None = Field(None, ge=1, le=10_000)
    daily_calls: int | None = Field(None, ge=1, le=10_000_000)
    spend_cap_minor: int | None = Field(None, ge=1)


NULLABLE = frozenset({"agent_version", "number_pool", "max_concurrent", "daily_calls", "spend_cap_minor"})
"""Fields of which null means: none. The others of a change are left out or have a value."""


def stored(spec: CampaignSpec | CampaignChange) -> dict[str, Any]:
    """As `store.Campaigns.create` and `update` take it: what was given, with the agent's name under `agent_name`.

    Raises ValueError, which names the field, where a change sets null what cannot be.
    """
    document = spec.model_dump(mode="json", exclude_unset=isinstance(spec, CampaignChange))
    for name, value in document.items():
        if value is None and name not in NULLABLE:
            raise ValueError(name)
    if "agent" in document:
        document["agent_name"] = document.pop("agent")
    if isinstance(document.get("retry_policy"), dict):
        # The store counts the versions.
        document["retry_policy"].pop("version", None)
    return document
