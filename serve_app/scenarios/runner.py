"""Plays a scenario on virtual time, and tells what was not as expected."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from serve_app.conversation.lines import make_lines
from serve_app.providers.base import AudioFormat
from serve_app.scenarios.callee import Callee
from serve_app.scenarios.checks import almost_equal, problems
from serve_app.scenarios.document import Scenario
from serve_app.scenarios.record import CallRecord, Utterance
from serve_app.scenarios.replies import ScenarioScript
from serve_app.scenarios.scripted_llm import ScriptedModel
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer
from serve_app.scenarios.steps import FaultPlan
from serve_app.scenarios.virtual_call import VirtualCall, lease_of
from serve_app.scenarios.virtual_network import HeardWord, VirtualNetwork, now
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.scenarios.vocabulary import FRAME_S, RATE_HZ

_LEAVING_S = 120.0
"""For the call's end after the callee hung up; beyond it the call is stuck."""
# What a synthesizer is given in other words than are written.
_NOT_PLAIN = re.compile(r"[\d*_#@/$€£%&<>\[\]|`+=~^]")


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario that was played. `call_s`: how long the call was, `took_s`: how long it took to play it.

    `underruns`: gaps of up to 400 ms inside the agent's speech, as the callee heard it; None on the real wire, where
    they tell of the machine.
    """

    scenario: Scenario
    record: CallRecord
    failures: Sequence[str]
    call_s: float
    took_s: float
    underruns: int | None = None

    @property
    def passed(self) -> bool:
        return not self.failures


class VirtualLine:
    """Implements `Line` on the virtual network."""

    def __init__(self, call: VirtualCall) -> None:
        self._call = call
        self._net: VirtualNetwork = call.net

    @property
    def now(self) -> float:
        return now() - self._net.opened_at

    @property
    def agent_began_at(self) -> float | None:
        return self._since_opening(self._net.agent_began_at)

    @property
    def agent_sounded_at(self) -> float | None:
        return self._since_opening(self._net.agent_sounded_at)

    def _since_opening(self, at: float | None) -> float | None:
        return None if at is None else at - self._net.opened_at

    @property
    def agent_words(self) -> int:
        return self._net.words_heard()

    async def until(self, condition: Callable[[], bool]) -> bool:
        await self._net.until(condition, within_s=7200)
        return self._net.closed is None

    async def say(self, *segments: str, word_s: float, pause_s: float, confidence: float, eager: bool) -> bool:
        self._call.stt.tells_eager = eager
        self._net.say(*segments, word_s=word_s, pause_s=pause_s, confidence=confidence)
        return await self.until(lambda: not self._net.speaking)

    async def noise(self, seconds: float) -> bool:
        self._net.noise(seconds)
        return await self.until(lambda: not self._net.speaking)

    def press(self, digit: str) -> None:
        self._net.press(digit)

    def hang_up(self) -> None:
        self._net.drop(1000)

    def fail(self, fault: FaultPlan) -> None:
        call = self._call
        # The document lets pass only the kinds that the stage has.
        target: Any = {
            ("stt", 1): call.stt,
            ("llm", 1): call.llm,
            ("llm", 2): call.second_llm,
            ("tts", 1): call.tts,
            ("tts", 2): call.second_tts,
        }[fault.stage, fault.provider]
        target.fail(fault.kind, fault.times)


def play(scenario: Scenario) -> Played:
    """On virtual time, in a loop of its own. A scenario that fails is no error; a fault of the session is one."""
    began = time.perf_counter()
    call = _call(scenario)
    problem: list[str] = []

    async def act(call: VirtualCall) -> None:
        script = ScenarioScript(scenario, call.record)
        call.llm.script = script
        if call.second_llm is not None:
            call.second_llm.script = script
        call.record.watchers.append(script.turn)
        await Callee(scenario, VirtualLine(call), call.record).act()

    async def run() -> None:
        if scenario.prepared:
            audio = AudioFormat("linear16", RATE_HZ)
            await make_lines(call.lines, call.tts, lease_of(call.agent, "").tenant_id, call.agent, audio)
        try:
            result = await call.run(act, scenario.max_duration_s + _LEAVING_S)
        except TimeoutError:
            problem.append(f"the call did not end within {scenario.max_duration_s + _LEAVING_S:g} s")
        else:
            call.record.finish(result, call.memory.turns, call.memory.opt_outs)

    run_virtual(run())
    if not problem and not call.nothing_is_left():
        problem.append("the call left tasks, streams, utterances or connections behind")
    failures = [*problems(scenario, call.record), *problem, *untruths(call.record.utterances, call.net)]
    result = call.record.result
    call_s = result.duration_s if result else 0.0
    return Played(scenario, call.record, failures, call_s, time.perf_counter() - began, call.net.underruns)


def _call(scenario: Scenario) -> VirtualCall:
    delays = scenario.latencies
    call = VirtualCall(scenario.agent, confirms=scenario.marks, settings=scenario.call)
    call.stt.start_s, call.stt.eager_s, call.stt.end_s = (
        ms / 1000 for ms in (delays.stt_start, delays.stt_eager, delays.stt_end)
    )

    def model(name: str) -> ScriptedModel:
        return ScriptedModel(first_token_s=delays.first_token / 1000, token_s=delays.token / 1000, name=name)

    def synthesizer(name: str) -> ScriptedSynthesizer:
        first_audio_s = delays.first_audio / 1000
        return ScriptedSynthesizer(
            call.words, first_audio_s=first_audio_s, times_words=scenario.word_timings, name=name
        )

    call.llm, call.tts = model("first"), synthesizer("first")
    call.second_llm = model("second") if "llm" in scenario.fallbacks else None
    call.second_tts = synthesizer("second") if "tts" in scenario.fallbacks else None
    return call


def untruths(utterances: Sequence[Utterance], net: VirtualNetwork) -> Iterator[str]:
    """Where the transcript tells of an utterance something else than the callee's ear."""
    for utterance in utterances:
        if _NOT_PLAIN.search(utterance.text):
            continue
        others = [filler for filler in utterances if filler.line == "filler" and _is_inside(filler, utterance)]
        bridged = [heard for filler in others for heard in _heard_in(filler, net)]
        truth = " ".join(_words([heard for heard in _heard_in(utterance, net) if heard not in bridged]))
        if not almost_equal(truth, utterance.heard_text):
            yield f"the callee heard {truth!r}, but the transcript has {utterance.heard_text!r}"


def _is_inside(filler: Utterance, reply: Utterance) -> bool:
    return reply.began < filler.began and filler.ended < reply.ended


def _heard_in(utterance: Utterance, net: VirtualNetwork) -> list[HeardWord]:
    start, end = (net.opened_at + at for at in (utterance.began, utterance.ended))
    return [heard for heard in net.heard if _within(heard, start, end)]


def _words(parts: Sequence[HeardWord]) -> Iterator[str]:
    """What was heard to its end, each word once: a dry spell tears one in two, and after a hold it is said again."""
    for _, same in groupby(parts, key=lambda part: part.word.number):
        pieces = list(same)
        if sum(piece.samples for piece in pieces) >= pieces[0].word.samples:
            yield pieces[0].word.text


def _within(heard: HeardWord, start: float, end: float) -> bool:
    return heard.began_at >= start - 2 * FRAME_S and heard.ended_at <= end + 2 * FRAME_S
