"""The callee of a scenario: carries the steps out, on whichever phone, and checks what is expected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallResult
from serve_app.scenarios.document import (
    PAUSE,
    BargeIn,
    Dtmf,
    Expect,
    Expected,
    Fault,
    FaultOrder,
    HangUp,
    Say,
    Scenario,
    Silence,
    Step,
)
from serve_app.scenarios.expectations import Happened
from serve_app.scenarios.memory import Memory
from serve_app.scenarios.silence import SilenceWatch
from serve_app.scenarios.trace import Trace

PATIENCE_S = 20.0
"""A callee waits so long for the agent to speak, and to be silent again; then it goes on."""
KEY_S = 0.3
_LOOK_S = 0.02


class Phone(Protocol):
    """The callee's telephone. Times are the running loop's."""

    @property
    def closed(self) -> str | None: ...

    @property
    def silence(self) -> SilenceWatch: ...

    @property
    def agent_began_at(self) -> float | None:
        """When the agent's present utterance, or its last, began to be heard."""
        ...

    @property
    def agent_sounded_at(self) -> float | None:
        """When the agent was last heard."""
        ...

    @property
    def speaking(self) -> bool: ...

    def say(self, *segments: str, word_s: float, pause_s: float, confidence: float) -> None: ...

    def press(self, digit: str) -> None: ...

    def drop(self, code: int) -> None: ...

    def words_heard(self) -> int:
        """Of the agent's present utterance."""
        ...


class ScenarioFailed(Exception):  # noqa: N818  a finding, not a fault
    """Something is not as expected."""


class Actor:
    """Plays one scenario once: `act` during the call, `finish` after it."""

    def __init__(
        self, scenario: Scenario, phone: Phone, memory: Memory, trace: Trace, break_provider: Callable[[FaultOrder], None]
    ) -> None:
        self._steps = scenario.steps
        self._phone = phone
        self._memory = memory
        self._trace = trace
        self._break_provider = break_provider
        self._next = 0
        self._since = 0
        """Length of the trace at the callee's latest step."""
        self._turns_before = 0
        self._step_at = self._spoke_until = _now()
        self._done = asyncio.Event()

    async def act(self) -> None:
        """All steps, and hang up. Raises ScenarioFailed."""
        try:
            while self._next < len(self._steps) and self._phone.closed is None:
                await self._carry_out(self._steps[self._next])
                if self._phone.closed is None:
                    self._next += 1
        finally:
            if self._phone.closed is None:
                self._phone.drop(1000)

    def finish(self, result: CallResult) -> None:
        """The call is over: what is still expected holds now, or never. Raises ScenarioFailed."""
        while self._next < len(self._steps):
            step = self._steps[self._next]
            if isinstance(step, Expect):
                self._judge(step.expect, result)
            elif not isinstance(step, Silence):
                raise self._failed(f"the call was over: {result.outcome} ({result.detail or 'no detail'})")
            self._next += 1

    # --- steps ---

    async def _carry_out(self, step: Step) -> None:
        match step:
            case Say():
                if not step.at_once:
                    await self._until_quiet(step.after_s)
                await self._speak(step.say, step.words_per_s, step.pause_s, step.confidence)
            case BargeIn(barge_in=interruption):
                if interruption.at_s is not None:
                    await self._until_agent_has_spoken_for(interruption.at_s)
                else:
                    await self._until_words_heard(interruption.after_words or 0)
                await self._speak(
                    interruption.text, interruption.words_per_s, interruption.pause_s, interruption.confidence
                )
            case Silence(silence=seconds):
                self._begin(f"silent for {seconds:g} s")
                await self._until(lambda: False, seconds)
                self._spoke_until = _now()
            case Dtmf(dtmf=keys):
                if keys.at_s is not None:
                    await self._until_agent_has_spoken_for(keys.at_s)
                self._begin(f"presses {keys.keys}")
                for digit in keys.keys:
                    self._phone.press(digit)
                    await self._until(lambda: False, KEY_S)
            case HangUp():
                if not step.at_once:
                    await self._until_quiet(step.after_s)
                self._begin("hangs up")
                self._phone.drop(1000)
            case Fault(fault=order):
                self._trace.callee(f"(fault: {order.stage} {order.kind} x{order.times})")
                self._break_provider(order)
            case Expect(expect=expected):
                await self._expect(expected)

    def _begin(self, what: str) -> None:
        """A step of the callee's: what is expected from here on is new."""
        self._since = len(self._trace.entries)
        self._turns_before = len(self._memory.records)
        self._step_at = self._spoke_until = _now()
        self._trace.callee(what)

    async def _speak(self, text: str, words_per_s: float, pause_s: float, confidence: float) -> None:
        if self._phone.closed is not None:
            return
        self._begin(f"says {text!r}")
        segments = [segment.strip() for segment in text.split(PAUSE)]
        self._phone.say(*segments, word_s=1 / words_per_s, pause_s=pause_s, confidence=confidence)
        await self._until(lambda: not self._phone.speaking, 3600)
        self._spoke_until = _now()

    # --- waiting ---

    async def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Whether it came to hold in time, with the line still open."""
        deadline = _now() + within_s
        while not (held := condition()) and self._phone.closed is None and _now() < deadline:
            await asyncio.sleep(_LOOK_S)
        return held and self._phone.closed is None

    async def _until_quiet(self, seconds: float) -> None:
        """The agent has answered the latest step, and been quiet since."""

        def quiet() -> bool:
            sounded_at = self._phone.agent_sounded_at
            return sounded_at is not None and sounded_at >= self._step_at and _now() - sounded_at >= seconds

        await self._until(quiet, PATIENCE_S)

    async def _until_agent_has_spoken_for(self, seconds: float) -> None:
        if not await self._until(self._agent_speaks, PATIENCE_S):
            raise self._failed("the agent did not speak")
        began_at = self._phone.agent_began_at or 0.0
        await self._until(lambda: _now() - began_at >= seconds, 3600)

    async def _until_words_heard(self, count: int) -> None:
        if not await self._until(self._agent_speaks, PATIENCE_S):
            raise self._failed("the agent did not speak")
        if not await self._until(lambda: self._phone.words_heard() >= count, PATIENCE_S + count):
            raise self._failed(f"the agent did not say {count} words")

    def _agent_speaks(self) -> bool:
        sounded_at = self._phone.agent_sounded_at
        return sounded_at is not None and _now() - sounded_at <= 2 * _LOOK_S

    # --- expectations ---

    async def _expect(self, expected: Expected) -> None:
        in_time = await self._until(lambda: not self._happened(None).lacks(expected), expected.patience_s)
        if self._phone.closed is None and in_time is expected.absent:
            self._judge(expected, None)

    def _judge(self, expected: Expected, result: CallResult | None) -> None:
        lacks = self._happened(result).lacks(expected)
        if expected.absent and not lacks:
            raise self._failed(f"expected not: {expected.wishes}")
        if lacks and not expected.absent:
            raise self._failed("; ".join(lacks))

    def _happened(self, result: CallResult | None) -> Happened:
        turns = self._memory.turns
        return Happened(
            entries=self._trace.entries[self._since :],
            turns=[turn for turn in turns if turn.index >= self._turns_before],
            cut=self._cut(turns),
            spoke_until=self._spoke_until,
            opt_outs=self._memory.opt_outs,
            longest_silence_s=self._phone.silence.longest_s,
            result=result,
        )

    @staticmethod
    def _cut(turns: list[TurnRecord]) -> TurnRecord | None:
        return next((turn for turn in reversed(turns) if turn.interrupted), None)

    def _failed(self, what: str) -> ScenarioFailed:
        kind = type(self._steps[self._next]).__name__
        return ScenarioFailed(f"step {self._next + 1} ({kind}): {what}")


def _now() -> float:
    return asyncio.get_running_loop().time()
