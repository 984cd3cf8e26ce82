"""How the simulated network conducts itself: who answers, and how unkind it is, by shares, seeds and its own clock.

Everything is drawn from (seed, number, how many calls that number has had), so a run repeats whatever the order in
which its calls are placed. What a test wants at one exact place is a fault (`network_config.NetworkFault`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.simulators.callee import Beep, CalleeBehaviour, Outcome, Say, Step

Share = Annotated[float, Field(ge=0, le=1)]
Span = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
"""The least and the most; what is drawn lies evenly between them."""
Unkindness = Literal["lost", "late", "duplicated", "reordered"]

GREETING = "You have reached my voicemail. Please leave a message after the tone."


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Population(_Document):
    """Who has the numbers that nobody gave a behaviour to."""

    outcomes: Mapping[Outcome, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Weights: of all calls, how many come to what."""
    ring_ms: Span = (4000, 20_000)
    """On the network's clock, like the platform's ringing timer."""
    talk_ms: Span = (20_000, 90_000)
    """Then the callee hangs up, having listened. In real time, because media is."""

    @model_validator(mode="after")
    def _spans_run_forward(self) -> Self:
        for name in ("ring_ms", "talk_ms"):
            least, most = getattr(self, name)
            if least > most:
                raise ValueError(f"{name}: [{least}, {most}] ends before it begins; write [{most}, {least}]")
        return self

    def behaviour(self, rng: random.Random) -> CalleeBehaviour:
        """What becomes of one call."""
        outcome = rng.choices(list(self.outcomes), list(self.outcomes.values()))[0]
        ring_ms, talk_ms = rng.randint(*self.ring_ms), max(1, rng.randint(*self.talk_ms))
        return CalleeBehaviour(
            outcome=outcome, answer_after_ms=ring_ms, steps=_said(outcome), max_duration_s=talk_ms / 1000
        )


class WebhookShares(_Document):
    """Of all call events. An event meets at most one of these."""

    lost: Share = 0
    late: Share = 0
    """Those that follow overtake it."""
    late_ms: Span = (500, 5000)
    duplicated: Share = 0
    reordered: Share = 0
    """It changes places with the next one."""

    @model_validator(mode="after")
    def _are_shares_of_one(self) -> Self:
        if self.lost + self.late + self.duplicated + self.reordered > 1:
            raise ValueError(
                "lost, late, duplicated and reordered are more than 1 together; an event meets one of them"
            )
        return self


class NetworkConduct(_Document):
    """Kind by default: nothing is lost, late or forgotten before its time, and every number has the same callee."""

    seed: int = 1
    speed: float = Field(1, gt=0, le=3600)
    """How much faster than real time the network's clock runs: by it phones ring, and calls are forgotten. Its limits
    of requests, its webhooks and its media keep to real time."""
    population: Population | None = None
    """None: `NetworkConfig.default_callee`."""
    webhooks: WebhookShares = WebhookShares()
    lost_responses: Share = 0
    """Create-call requests that are carried out and then cut off without an answer."""
    list_lag_ms: int = Field(0, ge=0, le=600_000)
    """How late a new call appears in the list of calls. (Whether the real list lags is not documented.)"""
    remember_s: float = Field(172_800, gt=0)
    """How long the API knows a call, on the network's clock: two days by default."""

    def luck(self, number: str, nth: int) -> CallLuck:
        """Of the `nth` call to a number."""
        return CallLuck(self, f"{self.seed}:{number}:{nth}")


class CallLuck:
    """What one call draws. Each question has a stream of its own, so one more draw here changes nothing there."""

    def __init__(self, conduct: NetworkConduct, key: str) -> None:
        self._conduct = conduct
        self._key = key
        self._webhooks = self._stream("webhooks")

    def behaviour(self) -> CalleeBehaviour | None:
        population = self._conduct.population
        return None if population is None else population.behaviour(self._stream("callee"))

    def loses_response(self) -> bool:
        return self._stream("response").random() < self._conduct.lost_responses

    def of_webhook(self) -> Unkindness | None:
        """What happens to the call's next event."""
        shares, drawn = self._conduct.webhooks, self._webhooks.random()
        kinds: tuple[Unkindness, ...] = ("lost", "late", "duplicated", "reordered")
        for kind in kinds:
            share: float = getattr(shares, kind)
            if drawn < share:
                return kind
            drawn -= share
        return None

    def delay_s(self) -> float:
        """Of an event that is late."""
        return self._webhooks.randint(*self._conduct.webhooks.late_ms) / 1000

    def _stream(self, name: str) -> random.Random:
        return random.Random(f"{self._key}:{name}")


def _said(outcome: Outcome) -> tuple[Step, ...]:
    return (Say(say=GREETING, pause_ms=0, patience_ms=0), Beep(beep_ms=500)) if outcome == "voicemail" else ()
