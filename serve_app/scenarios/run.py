"""One scenario played on virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from serve_app.conversation import turn_types as t
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.lease import CallResult
from serve_app.conversation.phrases import normalise_words
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.actor import Actor, ScenarioFailed
from serve_app.scenarios.document import PAUSE, BargeIn, FaultOrder, Say, Scenario
from serve_app.scenarios.scripted_llm import Answer, ScriptedModel
from serve_app.scenarios.scripted_tts import ScriptedSynthesizer
from serve_app.scenarios.trace import Trace
from serve_app.scenarios.truth import lies
from serve_app.scenarios.virtual_call import VirtualCall
from serve_app.scenarios.virtual_network import now
from serve_app.scenarios.virtual_time import run_virtual

UNSCRIPTED = "Of course."
"""What the model answers where the scenario tells nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """A scenario that was played. `failures`: empty when all was as expected."""

    scenario: Scenario
    failures: Sequence[str]
    trace: Trace
    turns: Sequence[TurnRecord] = ()
    result: CallResult | None = None
    longest_silence_s: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failures

    def timeline(self) -> str:
        return self.trace.timeline(self.turns)


@dataclass
class ScriptedBrain:
    """The model's part of a scenario: what it answers to the callee's latest words."""

    scenario: Scenario
    _answered: int | None = field(default=None, init=False)
    """The step that was answered last."""
    _tools_called: set[int] = field(default_factory=set, init=False)

    def __call__(self, request: ChatRequest) -> Answer:
        asked = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        words = normalise_words(asked)
        # What the callee said without an answer in between is one message: its last words count.
        for number, step in reversed(list(enumerate(self.scenario.steps))):
            if not isinstance(step, Say | BargeIn):
                continue
            said = normalise_words(spoken_text(step))
            if words[-len(said) :] == said:
                self._answered = number
                tool = step.tool if number not in self._tools_called else None
                first_token_s = None if step.first_token_ms is None else step.first_token_ms / 1000
                text = step.reply or ("" if tool is not None else UNSCRIPTED)
                if tool is None:
                    return Answer(text, first_token_s=first_token_s)
                return Answer(text, tool.name, tool.arguments, first_token_s)
        return Answer(UNSCRIPTED)

    def observe(self, event: t.TurnEvent, commands: Sequence[t.TurnCommand]) -> None:
        """A tool that was called is not called again for the same words."""
        if isinstance(event, t.ToolCalled) and self._answered is not None:
            self._tools_called.add(self._answered)


def spoken_text(step: Say | BargeIn) -> str:
    """What the callee says, without the marks of pauses."""
    text = step.say if isinstance(step, Say) else step.barge_in.text
    return " ".join(text.replace(PAUSE, " ").split())


def play(scenario: Scenario) -> Run:
    """On virtual time. Does not raise for a scenario that fails."""
    return run_virtual(_play(scenario))


async def _play(scenario: Scenario) -> Run:
    trace, brain = Trace(now), ScriptedBrain(scenario)
    trace.watch(brain.observe)
    call = make_call(scenario, brain, trace)
    actors: list[Actor] = []
    failures: list[str] = []

    async def callee(call: VirtualCall) -> None:
        actors.append(Actor(scenario, call.net, call.memory, trace, lambda order: break_provider(call, order)))
        try:
            await actors[0].act()
        except ScenarioFailed as failure:
            failures.append(str(failure))

    result = None
    try:
        result = await call.run(callee, scenario.max_duration_s)
    except TimeoutError:
        failures.append(f"the call was not over after {scenario.max_duration_s:g} s")
    if result is not None and not failures:
        try:
            actors[0].finish(result)
        except ScenarioFailed as failure:
            failures.append(str(failure))
    if result is not None:
        failures += lies(call.memory.turns, call.net.heard)
        if not call.nothing_is_left():
            failures.append("the call left tasks, streams or connections behind")
    return Run(scenario, failures, trace, call.memory.turns, result, call.net.silence.longest_s)


def make_call(scenario: Scenario, brain: ScriptedBrain, trace: Trace) -> VirtualCall:
    """The call with its scripted providers."""
    delays = scenario.providers
    call = VirtualCall(scenario.agent, confirms=scenario.confirms, settings=scenario.call, observe=trace.observe)
    stt = call.stt
    stt.start_s, stt.eager_s, stt.end_s = (
        ms / 1000 for ms in (delays.speech_start_ms, delays.eager_ms, delays.end_of_turn_ms)
    )
    stt.tells_eager = delays.eager
    call.llm = ScriptedModel(script=brain, first_token_s=delays.first_token_ms / 1000)
    call.tts.first_audio_s, call.tts.times_words = delays.first_audio_ms / 1000, delays.word_times
    if "llm" in delays.second:
        call.second_llm = ScriptedModel(script=brain, first_token_s=delays.first_token_ms / 1000, name="second")
    if "tts" in delays.second:
        call.second_tts = ScriptedSynthesizer(
            call.words, first_audio_s=call.tts.first_audio_s, times_words=delays.word_times, name="second"
        )
    return call


def break_provider(call: VirtualCall, order: FaultOrder) -> None:
    """Switch a fault of the scenario on."""
    targets: dict[str, list[object]] = {
        "stt": [call.stt],
        "llm": [call.llm, call.second_llm],
        "tts": [call.tts, call.second_tts],
    }
    for target in targets[order.stage][: None if order.everywhere else 1]:
        if target is not None:
            target.fail(order.kind, order.times)  # type: ignore[attr-defined]
