"""The callee's phone on the wire: the simulators' leg, and speech that the simulators made beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from serve_app.scenarios.document import Scenario
from serve_app.scenarios.steps import BargeIn, FaultPlan, Say
from serve_app.scenarios.wire_processes import RATE_HZ, Simulators
from serve_app.simulators.leg import FRAME_MS, MediaLeg, Utterance

_FRAME_BYTES = RATE_HZ * FRAME_MS // 1000 * 2
_LOOK_S = FRAME_MS / 1000
# Louder than a voice detector's threshold, and no speech.
_NOISE = b"\x00\x10\x00\xf0" * (_FRAME_BYTES // 4)


def spoken_texts(scenario: Scenario) -> list[str]:
    """Everything that the callee says, piece by piece."""
    texts: dict[str, None] = {}
    for step in scenario.steps:
        if isinstance(step, Say):
            texts.update(dict.fromkeys(step.say))
        elif isinstance(step, BargeIn) and step.barge_in.text:
            texts[step.barge_in.text] = None
    return list(texts)


class WireLine:
    """Implements `Line`."""

    def __init__(
        self, leg: MediaLeg, simulators: Simulators, voice: Mapping[str, bytes], *, call_id: str,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._leg = leg
        self._simulators = simulators
        self._voice = voice
        self._call_id = call_id
        self._clock = clock

    @property
    def now(self) -> float:
        return self._clock()

    @property
    def agent_began_at(self) -> float | None:
        return self._at(self._leg.agent_began_tick)

    @property
    def agent_sounded_at(self) -> float | None:
        return self._at(self._leg.agent_sound_tick)

    def _at(self, tick: int | None) -> float | None:
        return None if tick is None else self.now - (self._leg.tick - tick) * _LOOK_S

    @property
    def agent_words(self) -> int:
        """Nobody counts words here; scenarios for the wire do not ask."""
        return 0

    async def until(self, condition: Callable[[], bool]) -> bool:
        while not self._leg.closed and not condition():  # noqa: ASYNC110  the leg has one waiter only
            await asyncio.sleep(_LOOK_S)
        return not self._leg.closed

    async def say(self, *segments: str, word_s: float, pause_s: float, confidence: float, eager: bool) -> bool:
        """In the simulators' own voice and speed. They tell eager ends whenever the client asks for them."""
        await self._simulators.announce(self._call_id, segments)
        pause = bytes(round(pause_s * RATE_HZ) * 2)
        return await self._sound(pause.join(self._voice[segment] for segment in segments), " ".join(segments))

    async def noise(self, seconds: float) -> bool:
        return await self._sound(_NOISE * round(seconds / _LOOK_S), None)

    async def _sound(self, pcm: bytes, text: str | None) -> bool:
        if self._leg.closed:
            return False
        utterance = Utterance.of(pcm, text, _FRAME_BYTES)
        # Without the tail of silence, so that the end of the step is the last sound.
        sounding = utterance.pcm[: utterance.sounding_frames * _FRAME_BYTES]
        self._leg.say(Utterance.of(sounding, text, _FRAME_BYTES))
        return await self.until(lambda: not self._leg.speaking)

    def press(self, digit: str) -> None:
        self._leg.send_dtmf(digit)

    def hang_up(self) -> None:
        self._leg.close()

    def fail(self, fault: FaultPlan) -> None:
        raise NotImplementedError(f"{fault.stage}: faults are played on virtual time")
