"""The callee of a scenario: carries its steps out on a line, be it virtual or a real socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from serve_app.scenarios.document import Expect, Scenario
from serve_app.scenarios.record import CallRecord
from serve_app.scenarios.steps import BargeIn, Fault, FaultPlan, HangUp, Press, Quiet, Say

_KEY_S = 0.3
"""Between two keys."""
_BARGE_IN_PATIENCE_S = 20.0
"""An agent that does not speak for so long cannot be interrupted."""
_UNSURE_S = 2.5
_SOUNDING_S = 0.3
"""Longer pauses are not inside an utterance."""


class Line(Protocol):
    """The callee's phone. Times are seconds since the line was opened."""

    @property
    def now(self) -> float: ...

    @property
    def agent_began_at(self) -> float | None:
        """When the agent's latest utterance began to be heard."""
        ...

    @property
    def agent_sounded_at(self) -> float | None:
        """When the agent was last heard."""
        ...

    @property
    def agent_words(self) -> int:
        """Words of that utterance that were heard to their end."""
        ...

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for the 20 ms in which it holds; False when the line is gone."""
        ...

    async def say(self, *segments: str, word_s: float, pause_s: float, confidence: float, eager: bool) -> bool:
        """Until it is said; False when the line is gone."""
        ...

    async def noise(self, seconds: float) -> bool: ...

    def press(self, digit: str) -> None: ...

    def hang_up(self) -> None: ...

    def fail(self, fault: FaultPlan) -> None:
        """Switch a provider's fault on."""
        ...


class Callee:
    """One callee in one call."""

    def __init__(self, scenario: Scenario, line: Line, record: CallRecord) -> None:
        self._scenario = scenario
        self._line = line
        self._record = record
        self._spoke_until = 0.0

    async def act(self) -> None:
        """All steps, then listen until the agent hangs up. A call that gets too long is hung up."""
        for number, step in enumerate(self._scenario.steps):
            done = True
            if isinstance(step, Say):
                done = await self._say(number, step)
            elif isinstance(step, BargeIn):
                done = await self._barge_in(number, step)
            elif isinstance(step, Quiet):
                self._begin(number, "")
                done = await self._wait(step.silence)
            elif isinstance(step, Press):
                done = await self._press(number, step)
            elif isinstance(step, HangUp):
                done = await self._hang_up(number, step)
            elif isinstance(step, Fault):
                self._record.moment("fault", f"{step.fault.stage} {step.fault.kind}", "")
                self._line.fail(step.fault)
            else:
                assert isinstance(step, Expect)
                continue
            if not done:
                return
            self._record.step_ended(number)
        if await self._wait(max(0.0, self._scenario.max_duration_s - self._line.now)):
            self._record.problem(f"the call still runs after {self._scenario.max_duration_s:g} s")
            self._line.hang_up()

    def _begin(self, number: int, text: str) -> None:
        self._record.step_began(number, text)

    async def _say(self, number: int, step: Say) -> bool:
        if not await self._agent_is_done(step.after_s, step.patience_s):
            return False
        self._begin(number, step.text)
        said = await self._line.say(
            *step.say,
            word_s=1 / step.words_per_s,
            pause_s=step.pause_s,
            confidence=step.confidence,
            eager=step.eager,
        )
        self._spoke_until = self._line.now
        return said

    async def _barge_in(self, number: int, step: BargeIn) -> bool:
        what = step.barge_in
        if not await self._agent_is_heard(number, what.at_s or 0.0, what.after_words or 0):
            return False
        self._begin(number, what.text or "(noise)")
        if what.noise_s is not None:
            said = await self._line.noise(what.noise_s)
        else:
            said = await self._line.say(
                what.text, word_s=1 / what.words_per_s, pause_s=0.0, confidence=0.95, eager=True
            )
        self._spoke_until = self._line.now
        return said

    async def _press(self, number: int, step: Press) -> bool:
        if step.at_s is not None and not await self._agent_is_heard(number, step.at_s, 0):
            return False
        self._begin(number, f"key {step.dtmf}")
        for place, digit in enumerate(step.dtmf):
            if place and not await self._wait(_KEY_S):
                return False
            self._line.press(digit)
        return True

    async def _hang_up(self, number: int, step: HangUp) -> bool:
        if step.at_s is not None:
            ready = await self._agent_is_heard(number, step.at_s, 0)
        else:
            ready = await self._agent_is_done(step.after_s, step.patience_s)
        if ready:
            self._begin(number, "hangs up")
            self._line.hang_up()
        return ready

    async def _wait(self, seconds: float) -> bool:
        end = self._line.now + seconds
        return await self._line.until(lambda: self._line.now >= end)

    async def _agent_is_done(self, after_s: float, patience_s: float) -> bool:
        """The agent answered our latest words (or had time to), and has been quiet for `after_s`."""
        line, impatient_at = self._line, self._line.now + patience_s

        def done() -> bool:
            sounded, began = line.agent_sounded_at, line.agent_began_at
            if sounded is None or began is None or sounded <= self._spoke_until:
                return line.now >= impatient_at
            # What only went on over our words, or stopped for them, may not be the answer.
            answered = began >= self._spoke_until
            return line.now - sounded >= (after_s if answered else max(after_s, _UNSURE_S))

        return await line.until(done)

    async def _agent_is_heard(self, number: int, seconds: float, words: int) -> bool:
        """The first utterance of the agent that began after our latest words is being heard, and has been so far."""
        line, impatient_at = self._line, self._line.now + seconds + _BARGE_IN_PATIENCE_S

        def heard() -> bool:
            began, sounded = line.agent_began_at, line.agent_sounded_at
            if began is None or sounded is None or began < self._spoke_until or line.now - sounded > _SOUNDING_S:
                return False
            return line.now - began >= seconds and line.agent_words >= words

        there = await line.until(lambda: heard() or line.now >= impatient_at)
        if there and not heard():
            self._record.problem(f"steps.{number}: the agent did not speak so long within {_BARGE_IN_PATIENCE_S:g} s")
        return there
