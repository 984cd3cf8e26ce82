"""The deadline ladder: what a callee who waits for the agent's voice gets, and when. Part of the turn machine."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.conversation import turn_types as t
from serve_app.errors import Stage

_RUNGS: tuple[t.TimerName, ...] = ("filler", "failover", "reply")


@dataclass(frozen=True, slots=True)
class DeadlineLadder:
    """What happens while the callee waits for the agent's voice; seconds from the end of the callee's turn."""

    filler_s: float = 1.2
    failover_s: float = 2.5
    give_up_s: float = 6.0


class VoiceWait:
    """Whether the callee hears something now, and the timers of the wait for it. Every method returns what is to do."""

    def __init__(self, ladder: DeadlineLadder) -> None:
        self._ladder = ladder
        self._sounding: int | None = None
        """The generation that the callee hears now."""
        self._timeout_s: float | None = None
        """Of the wait that goes on."""
        self._deferred_s: float | None = None
        """The wait begins when what still plays is over."""
        self._held = False
        self._gone = 0
        """Generations up to this one were cleared: what is still told of their sound is out of date."""
        self._failed_over: set[Stage] = set()

    # --- waiting ---

    @property
    def waiting(self) -> bool:
        """What the callee waits for is not heard; a filler at the most."""
        return self._timeout_s is not None

    def expect(self, within_s: float | None = None) -> list[t.TurnCommand]:
        """Audio must be heard this long after the callee hears nothing; None: as the ladder says."""
        timeout_s = self._ladder.give_up_s if within_s is None else within_s
        if self._sounding is not None:
            self._deferred_s = timeout_s
            return self._stop()
        self._timeout_s, self._deferred_s = timeout_s, None
        commands: list[t.TurnCommand] = [t.CancelTimer("filler"), t.CancelTimer("failover")]
        commands.append(t.SetTimer("reply", timeout_s))
        if self._ladder.failover_s < timeout_s:
            commands.append(t.SetTimer("failover", self._ladder.failover_s))
        return commands

    def fail_over(self, stage: Stage) -> list[t.TurnCommand]:
        """The next provider of that stage has the turn now, and, if the callee waits, as long as the one before."""
        self._failed_over.add(stage)
        return [] if self._timeout_s is None else [t.SetTimer("failover", self._ladder.failover_s)]

    def failed_over(self, stage: Stage) -> bool:
        """Whether that stage's next provider was asked already in this generation."""
        return stage in self._failed_over

    def next_generation(self) -> None:
        self._failed_over.clear()

    # --- what the callee hears ---

    def heard(self, generation: int, *, expected: bool, ahead: bool) -> list[t.TurnCommand]:
        """`expected`: it is what is waited for. `ahead`: it only bridges the wait, which goes on."""
        if self._held or generation <= self._gone:
            return []
        self._sounding = generation
        if expected:
            return self.over()
        if ahead or self._timeout_s is None:
            return []
        # Speech from before: what is waited for comes after it.
        self._deferred_s = self._timeout_s
        return self._stop()

    def silent(self, generation: int) -> list[t.TurnCommand]:
        """Nothing of this generation sounds any more."""
        if self._sounding != generation:
            return []
        self._sounding = None
        if self._held or self._deferred_s is None:
            return []
        return self.expect(self._deferred_s)

    def held(self) -> list[t.TurnCommand]:
        """The playout is held: nothing sounds, and nothing is waited for."""
        self._held = True
        if self._deferred_s is None:
            self._sounding = None
        return self._stop()

    def resumed(self) -> list[t.TurnCommand]:
        """It goes on, with the speech from before if there was any."""
        self._held = False
        if self._deferred_s is None:
            return self.expect()
        return [] if self._sounding is not None else self.expect(self._deferred_s)

    def dropped(self, generation: int) -> list[t.TurnCommand]:
        """The playout is cleared, and what was waited for is not wanted any more."""
        self._gone = generation
        self._sounding = None
        return self.over()

    def asked_again(self, cleared: int | None = None) -> list[t.TurnCommand]:
        """The model is asked once more about the same words: the callee waits on, and the deadlines stay.

        Only the next provider has its time anew. `cleared`: the generation that was dropped for it.
        """
        if cleared is not None:
            self._gone, self._sounding, self._held = cleared, None, False
        if self._timeout_s is None:
            return self.expect()
        failover_s = self._ladder.failover_s
        return [t.SetTimer("failover", failover_s)] if failover_s < self._timeout_s else []

    def over(self) -> list[t.TurnCommand]:
        """Nothing is waited for."""
        self._deferred_s = None
        self._held = False
        return self._stop()

    def _stop(self) -> list[t.TurnCommand]:
        self._timeout_s = None
        return [t.CancelTimer(name) for name in _RUNGS]
