"""The callee on the line: acts its behaviour on a media leg."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from serve_app.audio.wavfile import read_mono
from serve_app.simulators.callee import (
    BargeIn,
    Beep,
    CalleeBehaviour,
    Dtmf,
    HangUp,
    Listen,
    Play,
    PlayBytes,
    Say,
    Step,
    Wait,
)
from serve_app.simulators.leg import FRAME_MS, MediaLeg, Utterance
from serve_app.simulators.speech import speak_async
from serve_app.simulators.vad import segment_speech

# An agent whose audio never stops arriving is still taken for quiet after this much silence in it.
_SURE_QUIET_TICKS = 2000 // FRAME_MS
_DTMF_TICKS = 300 // FRAME_MS
_BEEP_HZ = 1000
_BEEP_AMPLITUDE = 8000

Spoken = Say | BargeIn | Play | PlayBytes
Ending = Literal["hung_up", "leg_ended"]


class Scripts(Protocol):
    """Where the text of the next speech segments is told to the speech-to-text stand-in."""

    def expect_segments(self, call_id: str, texts: Sequence[str]) -> None: ...


class Callee:
    """One callee in one call."""

    def __init__(self, behaviour: CalleeBehaviour, scripts: Scripts | None = None) -> None:
        self.behaviour = behaviour
        self.steps_done = 0
        self.on_beep: Callable[[], object] | None = None
        """Told when a voicemail box begins to beep."""
        self._scripts = scripts
        self._rendered: dict[int, list[Utterance | None]] = {}

    async def prepare(self, rate_hz: int) -> None:
        """Make the audio of every step ahead of the call. Raises SoundFileError, FileNotFoundError, ValueError."""
        if rate_hz not in self._rendered:
            self._rendered[rate_hz] = [await self._render(step, rate_hz) for step in self.behaviour.steps]

    async def act(self, leg: MediaLeg, call_id: str | None) -> Ending:
        """Act all steps, then listen. Ends when the leg ends, or with `hung_up` when the callee wants to."""
        rate_hz = leg.endpoint.sample_rate_hz
        try:
            async with asyncio.timeout(self.behaviour.max_duration_s):
                await self.prepare(rate_hz)
                for step, utterance in zip(self.behaviour.steps, self._rendered[rate_hz], strict=True):
                    if isinstance(step, HangUp):
                        pause_ms = step.pause_ms
                        if pause_ms is not None and not await self._agent_is_done(leg, pause_ms, step.patience_ms):
                            return "leg_ended"
                        self.steps_done += 1
                        return "hung_up"
                    if not await self._step(step, utterance, leg, call_id):
                        # The leg's end is what a listener waits for.
                        self.steps_done += isinstance(step, Listen)
                        return "leg_ended"
                    self.steps_done += 1
                await leg.until(lambda: False)
        except TimeoutError:
            return "hung_up"
        return "leg_ended"

    async def _step(self, step: Step, utterance: Utterance | None, leg: MediaLeg, call_id: str | None) -> bool:
        """False when the leg ended."""
        if isinstance(step, BargeIn):
            if not await self._agent_sounds_for(leg, step.after_ms):
                return False
        elif isinstance(step, Say | Play | PlayBytes):
            if not await self._agent_is_done(leg, step.pause_ms, step.patience_ms):
                return False
        elif isinstance(step, Wait):
            return await _ticks(leg, step.wait_ms // FRAME_MS)
        elif isinstance(step, Dtmf):
            for digit in step.dtmf:
                leg.send_dtmf(digit)
                if not await _ticks(leg, _DTMF_TICKS):
                    return False
            return True
        elif isinstance(step, Listen):
            return await leg.until(lambda: False)
        elif isinstance(step, Beep) and self.on_beep is not None:
            self.on_beep()
        assert utterance is not None
        self._tell(utterance, leg.endpoint.sample_rate_hz, call_id)
        leg.say(utterance)
        return await leg.until(lambda: not leg.speaking)

    async def _agent_is_done(self, leg: MediaLeg, pause_ms: int, patience_ms: int) -> bool:
        """The agent spoke after our latest utterance (or had time to), and has been quiet for `pause_ms`."""
        pause = pause_ms // FRAME_MS
        impatient_at = leg.tick + patience_ms // FRAME_MS

        def done() -> bool:
            quiet = leg.agent_quiet_ticks()
            answered = leg.agent_sound_tick is not None and leg.agent_sound_tick > leg.spoke_until_tick
            if quiet < pause or not (answered or leg.tick >= impatient_at):
                return False
            return leg.buffer.frames == 0 or quiet >= max(pause, _SURE_QUIET_TICKS)

        return await leg.until(done)

    async def _agent_sounds_for(self, leg: MediaLeg, after_ms: int) -> bool:
        """The first utterance of the agent that began after our latest one has sounded for `after_ms`."""

        def sounds() -> bool:
            began = leg.agent_began_tick
            return began is not None and began > leg.spoke_until_tick and leg.tick - began >= after_ms // FRAME_MS

        return await leg.until(sounds)

    def _tell(self, utterance: Utterance, rate_hz: int, call_id: str | None) -> None:
        if self._scripts is None or call_id is None or utterance.text is None:
            return
        texts = share_words(utterance.text, segment_speech(np.frombuffer(utterance.pcm, dtype="<i2"), rate_hz))
        if texts:
            self._scripts.expect_segments(call_id, texts)

    async def _render(self, step: Step, rate_hz: int) -> Utterance | None:
        frame_bytes = rate_hz * FRAME_MS // 1000 * 2
        pcm: npt.NDArray[np.int16]
        if isinstance(step, Say | BargeIn):
            text: str | None = step.say if isinstance(step, Say) else step.barge_in
            assert text is not None
            pcm = (await speak_async(text, voice=self.behaviour.voice, rate_hz=rate_hz)).pcm
        elif isinstance(step, Play | PlayBytes):
            text = step.transcript
            pcm = await asyncio.to_thread(read_mono, step.play if isinstance(step, Play) else step.sound, rate_hz)
        elif isinstance(step, Beep):
            text, times = None, np.arange(step.beep_ms * rate_hz // 1000) / rate_hz
            pcm = (_BEEP_AMPLITUDE * np.sin(2 * np.pi * _BEEP_HZ * times)).astype(np.int16)
        else:
            return None
        return Utterance.of(pcm.astype("<i2", copy=False).tobytes(), text, frame_bytes)


async def on_the_line(
    leg: MediaLeg, callee: Callee, *, up: Callable[[], str | None], hang_up: Callable[[], object]
) -> None:
    """The leg from its opening to its end, and the callee acting on it. Raises LegConnectFailed.

    `up`: called once the leg is open, tells the call's id. `hang_up`: called when the callee wants to; closes the leg.
    """

    async def act() -> None:
        call_id = up() if await leg.until(lambda: leg.tick > 0) else None
        if await callee.act(leg, call_id) == "hung_up":
            hang_up()

    acting = asyncio.create_task(act())
    try:
        await leg.run()
        await asyncio.wait({acting}, timeout=1)
    finally:
        acting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await acting


def share_words(text: str, segments: Sequence[tuple[int, int]]) -> list[str]:
    """The words of `text` shared among speech segments (first, end) in proportion to their length.

    Every segment gets at least one word while there are enough.
    """
    words = text.split()
    total = sum(end - first for first, end in segments)
    texts: list[str] = []
    taken = voiced = 0
    for index, (first, end) in enumerate(segments):
        voiced += end - first
        left = len(segments) - index - 1
        upto = round(len(words) * voiced / total) if total else len(words)
        upto = min(max(upto, taken + 1), max(len(words) - left, taken + 1), len(words))
        texts.append(" ".join(words[taken:upto]))
        taken = upto
    return texts


async def _ticks(leg: MediaLeg, count: int) -> bool:
    end = leg.tick + count
    return await leg.until(lambda: leg.tick >= end)
