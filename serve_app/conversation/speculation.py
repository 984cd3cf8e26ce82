"""Whether drafts are worth their tokens, judged over a process' calls: it switches itself off, and tries anew."""

from __future__ import annotations

import math
from dataclasses import dataclass

import structlog

from serve_app.metrics import DRAFT_SAVED_SECONDS, DRAFTS, TOKENS
from serve_app.settings import SpeculationSettings

_CHARS_PER_TOKEN = 4

log = structlog.get_logger()


def estimate_tokens(chars: int) -> int:
    """For a stream that was left before it told its usage."""
    return math.ceil(chars / _CHARS_PER_TOKEN)


@dataclass(slots=True)
class Tally:
    """What became of drafts, and what they cost."""

    drafts: int = 0
    """That were decided: used, dropped, or failed."""
    commits: int = 0
    saved_s: float = 0.0
    wasted_tokens: int = 0
    tokens: int = 0
    """Of all answers and drafts, the wasted ones included."""

    @property
    def hit_rate(self) -> float:
        return self.commits / self.drafts if self.drafts else 1.0

    @property
    def wasted_share(self) -> float:
        return self.wasted_tokens / self.tokens if self.tokens else 0.0


class Speculation:
    """Counts, and decides whether the next draft may begin. `now`: monotonic seconds."""

    def __init__(self, settings: SpeculationSettings | None = None) -> None:
        self._settings = settings or SpeculationSettings()
        self._off_until: float | None = None
        self._judged = Tally()
        """Since drafts were last switched on."""
        self.total = Tally()

    def allowed(self, now: float) -> bool:
        if not self._settings.enabled:
            return False
        if self._off_until is None:
            return True
        if now < self._off_until:
            return False
        self._off_until, self._judged = None, Tally()
        return True

    def committed(self, now: float) -> None:
        """A draft became the answer."""
        DRAFTS.labels("committed").inc()
        for tally in (self._judged, self.total):
            tally.commits += 1
        self._decided(now)

    def dropped(self, tokens: int, now: float) -> None:
        DRAFTS.labels("dropped").inc()
        self._spent("wasted", tokens)
        self._decided(now)

    def failed(self, now: float) -> None:
        """The model refused the draft, or broke off."""
        DRAFTS.labels("failed").inc()
        self._decided(now)

    def answered(self, tokens: int) -> None:
        """An answer came to its end, whether or not it began as a draft."""
        self._spent("used", tokens)

    def saved(self, seconds: float) -> None:
        """So much earlier the first token of an answer was there."""
        DRAFT_SAVED_SECONDS.inc(seconds)
        for tally in (self._judged, self.total):
            tally.saved_s += seconds

    def _spent(self, use: str, tokens: int) -> None:
        TOKENS.labels(use).inc(tokens)
        for tally in (self._judged, self.total):
            tally.tokens += tokens
            tally.wasted_tokens += tokens if use == "wasted" else 0

    def _decided(self, now: float) -> None:
        for tally in (self._judged, self.total):
            tally.drafts += 1
        settings, judged = self._settings, self._judged
        if self._off_until is not None or judged.drafts < settings.min_samples:
            return
        if judged.hit_rate < settings.min_hit_rate or judged.wasted_share > settings.max_wasted_share:
            self._off_until = now + settings.retry_after_s
            log.warning(
                "drafts are switched off",
                hit_rate=round(judged.hit_rate, 3),
                wasted_share=round(judged.wasted_share, 3),
                drafts=judged.drafts,
                retry_after_s=settings.retry_after_s,
            )
