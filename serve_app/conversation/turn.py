"""The turn machine: it alone decides who may speak. Sans-I/O: events in, commands out; no clock, no tasks.

Every reply and every fixed line has a generation. Whatever arrives late from an older generation is ignored, so audio
or text of an abandoned reply can never be heard. Every wait has a timer, so every turn ends in speech or in a hang-up.
"""

from __future__ import annotations

import re
from functools import singledispatchmethod

from serve_app.conversation import turn_types as t
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import Outcome
from serve_app.errors import Stage

# After a failure the callee has already waited: what repairs it must be heard soon, or the call ends. With
# `reply_timeout_s` of 4 s the silence stays below 5 s.
REPAIR_TIMEOUT_S = 0.9
# A farewell that neither ends nor fails must not keep a call open.
ENDING_TIMEOUT_S = 45.0

_MEANT_BEFORE_THE_CALL = (t.CallConnected, t.HangUpRequested, t.MediaClosed, t.TranscriberFailed)


def normalise_words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.casefold())


class EndPhrases:
    """Recognises a goodbye in a text."""

    def __init__(self, phrases: tuple[str, ...]) -> None:
        self._phrases = [words for words in map(normalise_words, phrases) if words]

    def at_end(self, text: str) -> bool:
        words = normalise_words(text)
        return any(words[-len(phrase) :] == phrase for phrase in self._phrases)

    def anywhere(self, text: str) -> bool:
        words = normalise_words(text)
        return any(
            words[i : i + len(phrase)] == phrase
            for phrase in self._phrases
            for i in range(len(words) - len(phrase) + 1)
        )


class TurnMachine:
    """One call's turns."""

    def __init__(self, agent: AgentDefinition, *, reply_timeout_s: float) -> None:
        self._agent = agent
        self._reply_timeout_s = reply_timeout_s
        self._goodbyes = EndPhrases(agent.policies.end_phrases)
        self._commands: list[t.TurnCommand] = []
        self.state: t.TurnState = "listening"
        self.generation = 0
        self._connected = False
        self._reply_text = ""
        self._is_reply = False
        self._callee_said_goodbye = False
        self._callee_mentioned_goodbye = False
        self._outcome: tuple[Outcome, str | None] | None = None
        """What to hang up with once the current speech is played."""
        self._sounding: int | None = None
        """The generation that the callee hears now."""
        self._deferred_timeout_s: float | None = None
        """The wait for audio begins when what still plays is over."""
        self._transcriber_fault: str | None = None
        self._failures = 0
        """Replies that failed in a row."""
        self._unanswered = ""
        """What the callee said over an agent that may not be interrupted."""
        self.callee_turns = 0

    def handle(self, event: t.TurnEvent) -> list[t.TurnCommand]:
        """The commands, in the order in which they are to be carried out. After HangUp nothing more comes."""
        # Before the call is connected only its end, or a fault, means anything.
        early = not self._connected and not isinstance(event, _MEANT_BEFORE_THE_CALL)
        if self.state != "over" and not early:
            self._on(event)
        commands, self._commands = self._commands, []
        return commands

    def _do(self, *commands: t.TurnCommand) -> None:
        self._commands += commands

    @singledispatchmethod
    def _on(self, event: t.TurnEvent) -> None:
        raise TypeError(f"not an event of a call: {event!r}")

    # --- the callee ---

    @_on.register
    def _(self, event: t.CallConnected) -> None:
        if self._connected:
            return
        self._connected = True
        self._do(t.SetTimer("max_duration", self._agent.limits.max_duration_s))
        if self._transcriber_fault is not None:
            self._fail(self._transcriber_fault, prepared_only=False)
            return
        self._speak("opening", self._agent.opening)

    @_on.register
    def _(self, event: t.CalleeSpeechStarted) -> None:
        if self.state == "ending":
            return
        if self.state in ("speaking", "thinking"):
            if not self._agent.policies.interruptible:
                return
            self._yield_to_callee()
        self._wait_for_callee()

    @_on.register
    def _(self, event: t.CalleePartial) -> None:
        if self.state == "listening":
            self._wait_for_callee()

    @_on.register
    def _(self, event: t.KeyPressed) -> None:
        if self.state == "listening":
            self._wait_for_callee()

    @_on.register
    def _(self, event: t.CalleeTurnEnded) -> None:
        if self.state == "ending":
            return
        text = event.text.strip()
        if self.state in ("speaking", "thinking"):
            if not text:
                return
            if not self._agent.policies.interruptible:
                self._unanswered = f"{self._unanswered} {text}".strip()
                return
            self._yield_to_callee()
        if not text:
            self._wait_for_callee()
            return
        self._answer(text)

    def _answer(self, text: str) -> None:
        self.callee_turns += 1
        self._unanswered = ""
        if self.callee_turns > self._agent.limits.max_turns:
            self._end_politely("max_turns", None)
            return
        self._callee_said_goodbye = self._goodbyes.at_end(text)
        self._callee_mentioned_goodbye = self._goodbyes.anywhere(text)
        self._next_generation(is_reply=True)
        self.state = "thinking"
        self._do(t.CancelTimer("silence"))
        self._await_audio(self._reply_timeout_s)
        self._do(t.StartReply(self.generation, text))

    def _yield_to_callee(self) -> None:
        """Barge-in: whatever the agent says or thinks is over."""
        self._drop_reply()
        self._callee_said_goodbye = self._callee_mentioned_goodbye = False
        self.state = "listening"

    def _wait_for_callee(self) -> None:
        self.state = "listening"
        self._do(t.SetTimer("silence", self._agent.limits.silence_timeout_s))

    # --- the agent ---

    @_on.register
    def _(self, event: t.ReplySentence) -> None:
        if event.generation == self.generation:
            self._reply_text += event.text

    @_on.register
    def _(self, event: t.PlayoutStarted) -> None:
        self._sounding = event.generation
        if event.generation != self.generation:
            return
        self._deferred_timeout_s = None
        self._do(t.CancelTimer("reply"))
        if self.state == "thinking":
            self.state = "speaking"

    @_on.register
    def _(self, event: t.PlayoutDry) -> None:
        self._fell_silent(event.generation)
        if event.generation == self.generation:
            self._await_audio(self._reply_timeout_s)

    def _await_audio(self, timeout_s: float) -> None:
        """Audio of the current generation must be heard this long after the callee hears nothing."""
        if self._sounding is None:
            self._do(t.SetTimer("reply", timeout_s))
        else:
            self._do(t.CancelTimer("reply"))
            self._deferred_timeout_s = timeout_s

    def _fell_silent(self, generation: int) -> None:
        if self._sounding != generation:
            return
        self._sounding = None
        if self._deferred_timeout_s is not None:
            self._do(t.SetTimer("reply", self._deferred_timeout_s))
            self._deferred_timeout_s = None

    @_on.register
    def _(self, event: t.ReplyFinished) -> None:
        if event.generation == self.generation and self._is_reply:
            self._failures = 0

    @_on.register
    def _(self, event: t.PlayoutDrained) -> None:
        self._fell_silent(event.generation)
        if event.generation != self.generation:
            return
        self._do(t.CancelTimer("reply"))
        if self._outcome is not None:
            self._hang_up(*self._outcome)
        elif self._closes_the_call():
            self._hang_up("completed", None)
        elif self._callee_said_goodbye:
            self._end_politely("completed", None)
        elif self._unanswered:
            self._answer(self._unanswered)
        else:
            self._wait_for_callee()

    def _closes_the_call(self) -> bool:
        """Both said goodbye, so nothing is left to say."""
        return self._callee_mentioned_goodbye and self._is_reply and self._goodbyes.anywhere(self._reply_text)

    # --- failures ---

    @_on.register
    def _(self, event: t.ReplyFailed) -> None:
        if event.generation == self.generation:
            self._recover(event.stage, event.detail)

    @_on.register
    def _(self, event: t.TranscriberFailed) -> None:
        if not self._connected:
            self._transcriber_fault = event.detail
        elif self.state != "ending":
            self._drop_reply()
            self._fail(event.detail, prepared_only=False)

    @_on.register
    def _(self, event: t.CalleeTurnLost) -> None:
        if self.state == "listening":
            self._recover("stt", event.detail)

    def _recover(self, stage: Stage, detail: str) -> None:
        """Say that something went wrong, once; the second time in a row, say goodbye; when even that fails, hang up."""
        synthesizer_down = stage == "tts"
        if self.state == "ending":
            outcome = self._outcome or ("provider_failure", detail)
            self._do(t.CancelReply(self.generation))
            self._hang_up(*outcome)
            return
        if not self._is_reply and synthesizer_down and self._failures:
            # The apology itself could not be spoken.
            self._do(t.CancelReply(self.generation))
            self._hang_up("provider_failure", detail)
            return
        self._do(t.CancelReply(self.generation))
        self._failures += 1
        if self._failures >= 2:
            self._fail(detail, prepared_only=synthesizer_down)
            return
        self._callee_said_goodbye = self._callee_mentioned_goodbye = False
        self._speak("apology", self._agent.policies.apology, prepared_only=synthesizer_down, within=REPAIR_TIMEOUT_S)

    def _fail(self, detail: str, *, prepared_only: bool) -> None:
        self._outcome = ("provider_failure", detail)
        self._speak(
            "failure_farewell",
            self._agent.policies.failure_farewell,
            prepared_only=prepared_only,
            within=REPAIR_TIMEOUT_S,
        )
        self.state = "ending"
        self._do(t.SetTimer("ending", ENDING_TIMEOUT_S))

    # --- timers and ends ---

    @_on.register
    def _(self, event: t.TimerFired) -> None:
        if event.name == "reply":
            self._on_reply_timeout()
        elif event.name == "silence" and self.state == "listening":
            self._end_politely("silence", None)
        elif event.name == "max_duration" and self.state != "ending":
            self._drop_reply()
            self._end_politely("max_duration", None)
        elif event.name == "ending" and self.state == "ending":
            self._drop_reply()
            self._hang_up(*(self._outcome or ("failed", "the farewell did not end")))

    def _on_reply_timeout(self) -> None:
        if self.state == "listening":
            return
        # A line needs no model; a reply that has text waits for the synthesizer.
        stage: Stage = "llm" if self._is_reply and not self._reply_text else "tts"
        self._recover(stage, f"no audio in time ({stage})")

    @_on.register
    def _(self, event: t.HangUpRequested) -> None:
        self._drop_reply()
        self._hang_up("agent_hung_up", event.detail)

    @_on.register
    def _(self, event: t.MediaClosed) -> None:
        outcome, detail = event.outcome, event.detail
        if self._outcome is not None:
            # The goodbye was being said: the call ended for its own reason.
            outcome, detail = self._outcome[0], self._outcome[1] or event.detail
        elif self._callee_mentioned_goodbye and outcome == "callee_hung_up":
            outcome = "completed"
        self._drop_reply()
        self._hang_up(outcome, detail)

    def _end_politely(self, outcome: Outcome, detail: str | None) -> None:
        self._outcome = (outcome, detail)
        self._speak("farewell", self._agent.policies.farewell)
        self.state = "ending"
        self._do(t.SetTimer("ending", ENDING_TIMEOUT_S))

    def _hang_up(self, outcome: Outcome, detail: str | None) -> None:
        self._do(
            t.CancelTimer("reply"),
            t.CancelTimer("silence"),
            t.CancelTimer("max_duration"),
            t.CancelTimer("ending"),
            t.HangUp(outcome, detail),
        )
        self.state = "over"

    # --- generations ---

    def _next_generation(self, *, is_reply: bool) -> None:
        self.generation += 1
        self._reply_text = ""
        self._is_reply = is_reply

    def _speak(self, kind: t.LineKind, text: str, *, prepared_only: bool = False, within: float | None = None) -> None:
        self._next_generation(is_reply=False)
        self.state = "speaking"
        self._do(t.CancelTimer("silence"))
        self._await_audio(self._reply_timeout_s if within is None else within)
        self._do(t.SpeakLine(self.generation, kind, text, prepared_only))

    def _drop_reply(self) -> None:
        """Cancel what the agent is saying. Its generation is over: late events of it are ignored."""
        if self.state in ("thinking", "speaking", "ending"):
            self._do(t.CancelReply(self.generation), t.CancelTimer("reply"), t.ClearPlayout(self.generation))
            self.generation += 1
            self._sounding = self._deferred_timeout_s = None
