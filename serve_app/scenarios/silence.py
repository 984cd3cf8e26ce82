"""Silences of a call that the agent owes an end: nobody speaks, and it is not the callee's turn.

They count from the end of the callee's turn on, provider latency included; where no end was told, from the last sound.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.conversation import turn_types as t

_NOTED_S = 0.5
"""Shorter ones are pauses between words and sentences."""


@dataclass(frozen=True, slots=True)
class Silence:
    """On the call's clock."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


class SilenceWatch:
    """Told of every 20 ms of the call and of the turn machine's events. Sans-I/O."""

    def __init__(self, now: float) -> None:
        self._quiet_from: float | None = now
        self._owed = True
        self._over = False
        self._now = now
        self._sounded: set[int] = set()
        """Generations of which something was heard."""
        self._fillers: set[int] = set()
        self.silences: list[Silence] = []

    def tick(self, now: float, *, agent: bool, callee: bool) -> None:
        """`agent`: the callee hears it now, by the network's buffer. `callee`: says words now."""
        if agent or callee:
            self._close(self._now)
            self._owed = self._owed or callee
        elif self._quiet_from is None:
            self._quiet_from = self._now
        self._now = now

    def event(self, event: t.TurnEvent, now: float) -> None:
        """An event of the turn machine."""
        if isinstance(event, t.CalleeTurnEnded):
            if event.text.strip():
                self._owed, self._quiet_from = True, now
            else:
                # Nothing was said, so nothing was owed.
                self._owed, self._quiet_from = False, now
        elif isinstance(event, t.PlayoutStarted):
            if not self._owed and self._quiet_from is not None:
                # Until now it was the callee's turn.
                self._quiet_from = now
            self._owed = True
            self._sounded.add(event.generation)
        elif isinstance(event, t.PlayoutDrained) and event.generation in self._sounded:
            self._close(now)
            # After a filler the reply is still owed.
            self._owed, self._quiet_from = event.generation in self._fillers, now

    def command(self, command: t.TurnCommand, now: float) -> None:
        if isinstance(command, t.HangUp):
            self._close(now)
            self._over = True
        elif isinstance(command, t.SpeakLine) and command.kind == "filler":
            self._fillers.add(command.generation)

    @property
    def longest_s(self) -> float:
        running = self._now - self._quiet_from if self._counts and self._quiet_from is not None else 0.0
        return max([running, *(silence.seconds for silence in self.silences)])

    @property
    def _counts(self) -> bool:
        return self._owed and not self._over

    def _close(self, end: float) -> None:
        if self._quiet_from is not None and self._counts and end - self._quiet_from >= _NOTED_S:
            self.silences.append(Silence(self._quiet_from, end))
        self._quiet_from = None
