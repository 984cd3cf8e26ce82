"""The time that campaigns go by: real time, or, on a simulated network only, a faster one that begins when one likes.

`dialing.simulated_clock` gives each campaign a clock that shows `begins` at the moment of its start and runs `speed`
times as fast. Days of calling can so be watched in minutes. What goes by it, and what does not:

- By it: every question of the calling rules (windows, holidays, the law in force, hours between calls, rolling caps),
  the retry policy (delays, parts of the day, how long somebody talked), and how openings are spread.
- By real time: everything that is stored. `next_at`, `give_up_at`, `placing_at` and all other columns are real moments,
  so whatever promotes, leases, fences, paces, beats, reconciles or checks a webhook's age knows nothing of this: a
  lease that ran out sixty times too soon would be somebody else's. A moment is turned into the rules' time right
  before they are asked, and their answer back right after.
- By real time as well: media, rings and talk (a simulator may shrink them), scheduled starts, the days and months of
  budgets and plans, the rest of our own numbers, the worth of a lead in the queue. The dates of consents and scrubs are
  those of documents: nobody's clock moves them.

Settling happens in every process that may end a call, so the clock is put up once in each, at its start, like the log.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from serve_app.dialing.network import network_is_simulated
from serve_app.errors import SettingsError
from serve_app.settings import Settings


@dataclass(frozen=True, slots=True)
class CampaignTime:
    """The clock of one campaign: it showed `shown` at the real moment `real`."""

    real: datetime
    shown: datetime
    speed: float

    def shows(self, moment: datetime) -> datetime:
        """What it shows at a real moment."""
        return self.shown + (moment - self.real) * self.speed

    def when(self, shown: datetime) -> datetime:
        """The real moment at which it shows this."""
        return self.real + (shown - self.shown) / self.speed

    def lasts(self, real_s: float) -> float:
        """Seconds by this clock."""
        return real_s * self.speed


@dataclass(frozen=True, slots=True)
class CampaignClock:
    """`begins` None: real time."""

    begins: datetime | None = None
    speed: float = 1

    def of(self, started_at: datetime | None) -> CampaignTime:
        """For a campaign that was started then."""
        if self.begins is None or started_at is None:
            return _REAL
        return CampaignTime(started_at, self.begins, self.speed)


_EPOCH = datetime.fromtimestamp(0, UTC)
_REAL = CampaignTime(_EPOCH, _EPOCH, 1)
REAL_TIME = CampaignClock()


def campaign_clock(settings: Settings, *, simulated_network: bool | None = None) -> CampaignClock:
    """The clock of the settings. Raises SettingsError where real people could be called by a clock that lies."""
    wanted = settings.dialing.simulated_clock
    if wanted is None:
        return REAL_TIME
    simulated = network_is_simulated(settings) if simulated_network is None else simulated_network
    if not simulated:
        raise SettingsError(
            "dialing.simulated_clock: only a simulated phone network may be called by it; remove the setting"
        )
    return CampaignClock(wanted.begins.astimezone(UTC), wanted.speed)
