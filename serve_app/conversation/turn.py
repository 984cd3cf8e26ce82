"""The turn machine: it alone decides who may speak. Sans-I/O: events in, commands out; no clock, no tasks.

Every reply and every fixed line has a generation. Whatever arrives late from an older generation is ignored, so audio
or text of an abandoned reply can never be heard. Every wait has a timer, so every turn ends in speech or in a hang-up.
"""

from __future__ import annotations

from functools import singledispatchmethod

from serve_app.conversation import turn_types as t
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.closing import Goodbyes, is_question
from serve_app.conversation.deadlines import DeadlineLadder, VoiceWait
from serve_app.conversation.drafting import Drafts
from serve_app.conversation.interruption import InterruptionJudge
from serve_app.conversation.language_requests import LanguageRequests
from serve_app.conversation.lease import Outcome
from serve_app.conversation.opt_out_words import opt_out_matcher
from serve_app.conversation.phrases import Language, LineName
from serve_app.errors import Stage

# After a failure the callee has already waited: what repairs it must be heard soon, or the call ends.
REPAIR_TIMEOUT_S = 0.9
# A farewell that neither ends nor fails must not keep a call open.
ENDING_TIMEOUT_S = 45.0

_MEANT_BEFORE_THE_CALL = (t.CallConnected, t.HangUpRequested, t.MediaClosed, t.TranscriberFailed)


class TurnMachine:
    """One call's turns."""

    def __init__(self, agent: AgentDefinition, *, ladder: DeadlineLadder | None = None) -> None:
        self._agent = agent
        self._policies = agent.policies
        self._ladder = ladder or DeadlineLadder()
        self._languages: tuple[Language, ...] = (agent.language, *agent.languages)
        self._judge = InterruptionJudge(agent.policies, self._languages)
        self._goodbyes = Goodbyes(agent.policies.end_phrases, self._languages)
        self._opt_outs = opt_out_matcher(agent.policies.opt_out_phrases, self._languages)
        self._requests = LanguageRequests(self._languages)
        self._commands: list[t.TurnCommand] = []
        self.state: t.TurnState = "listening"
        self.language: Language = agent.language
        self.generation = 0
        self.callee_turns = 0
        self._connected = False
        self._speech: t.LineKind | None = None
        """The fixed line of the present generation; None: a reply."""
        self._text = ""
        """What the present generation says."""
        self._awaited: Stage = "tts"
        """The stage that owes what the callee waits for."""
        self._outcome: tuple[Outcome, str | None] | None = None
        """What to hang up with once the current speech is played."""
        self._voice = VoiceWait(self._ladder)
        self._filler: int | None = None
        self._fillers_said = 0
        self._transcriber_fault: str | None = None
        self._failures = 0
        """Replies that failed in a row."""
        self._unanswered: list[t.CalleeTurnEnded] = []
        """What the callee said over the agent without interrupting it."""
        self._owed = ""
        """Of that, what an interruption left without an answer: it belongs to the callee's next words."""
        self._callee_speaks = False
        self._open_turn = ""
        """What was heard of the callee's turn while its end was not told."""
        self._held_on = ""
        """The words that the present hold is for; it may be for none."""
        self._switched_for_turn = False
        """The model changed the language since the callee's last turn: it may do so once."""
        self._asked_in_words = False
        """The model was asked again since then, because it had said nothing."""
        self._silence_prompts = 0
        self._warn_of_the_end = False
        self._warning_is_late = False
        """It does not wait for another answer."""
        self._drafts = Drafts()
        self._opted_out = False

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
        limits = self._agent.limits
        self._do(t.SetTimer("max_duration", limits.max_duration_s))
        if 0 < limits.duration_warning_s < limits.max_duration_s:
            self._do(t.SetTimer("duration_warning", limits.max_duration_s - limits.duration_warning_s))
        if self._transcriber_fault is not None:
            self._do(t.NoteCause(self.generation, "stt_failed"))
            self._fail(self._transcriber_fault, prepared_only=False)
            return
        self._speak("opening", self._agent.opening)

    @_on.register
    def _(self, event: t.CalleeSpeechStarted) -> None:
        self._callee_speaks = True
        self._hear(event.text)

    @_on.register
    def _(self, event: t.CalleePartial) -> None:
        self._callee_speaks = True
        self._hear(event.text)

    @_on.register
    def _(self, event: t.CalleeTurnMayEnd) -> None:
        self._hear(event.text)
        self._drop_draft()
        wanted = self._policies.speculate and self.callee_turns < self._agent.limits.max_turns
        if self.state == "listening" and wanted and event.text.strip():
            self._do(self._drafts.start(self._with_owed(event.text)))

    @_on.register
    def _(self, event: t.CalleeTurnResumed) -> None:
        self._callee_speaks = True
        self._drop_draft()

    @_on.register
    def _(self, event: t.KeyPressed) -> None:
        if event.digit == self._policies.opt_out_key:
            self._opt_out("key", event.digit)
        elif self.state == "listening":
            self._wait_for_callee()

    @_on.register
    def _(self, event: t.CalleeTurnEnded) -> None:
        self._callee_speaks = False
        text = event.text.strip()
        self._hear(text, final=True)
        if self.state in ("ending", "over"):
            return
        if self.state == "interrupted":
            self._resume_speech()
        if self.state in ("thinking", "speaking"):
            # It did not interrupt: it is answered when the agent has finished, if it wants an answer.
            if text:
                self._unanswered.append(event)
        elif text and self._warning_is_late and not self._goodbyes.is_one(text):
            self._owed = self._with_owed(text)
            self._say_warning()
        elif text:
            self._answer(text)
        elif self._warn_of_the_end:
            self._say_warning()
        else:
            self._drop_draft()
            self._wait_for_callee()

    def _hear(self, text: str, *, final: bool = False) -> None:
        """Words of the callee's turn so far, final or not: they may interrupt, and an opt-out counts at once."""
        self._open_turn = "" if final else text.strip()
        if text.strip():
            self._silence_prompts = 0
            if self._opt_outs.heard(text, final=final):
                self._opt_out("phrase", text.strip())
                return
        if self._is_back_in_time(text):
            self._call_off_the_end()
        if self.state == "listening":
            self._wait_for_callee()
        elif self.state == "interrupted":
            if (final or text.strip() != self._held_on) and self._judge.says_something(text):
                self._yield_to_callee()
        elif self.state == "thinking":
            if self._policies.interruptible and self._judge.says_something(text):
                self._yield_to_callee()
        elif self.state == "speaking" and self._interruptible:
            verdict = self._judge.over_speech(text, more_may_come=not final)
            if verdict == "interrupt":
                self._yield_to_callee()
            elif verdict == "hold":
                self._hold_speech(text)

    @property
    def _interruptible(self) -> bool:
        opening = self._speech == "opening" and not self._policies.opening_interruptible
        return self._policies.interruptible and not opening

    def _is_back_in_time(self, text: str) -> bool:
        """The callee is there after all, and the call is ending because nobody was."""
        ending = self.state == "ending" and self._outcome is not None and self._outcome[0] == "silence"
        return ending and self._judge.says_something(text) and not self._goodbyes.is_one(text)

    def _call_off_the_end(self) -> None:
        self._outcome = None
        self.state = "speaking"
        self._do(t.CancelTimer("ending"))
        if self._policies.interruptible:
            self._yield_to_callee()

    def _answer(self, said: str) -> None:
        text, self._owed = self._with_owed(said), ""
        self.callee_turns += 1
        self._unanswered.clear()
        self._switched_for_turn = self._asked_in_words = False
        if self.callee_turns > self._agent.limits.max_turns:
            self._end_politely("max_turns", None)
            return
        for language in self._requests.asked(said) or self._requests.asked(text):
            if language != self.language:
                self._switch_language(language)
        self._goodbyes.callee_said(text)
        self._think(text)

    def _think(self, text: str) -> None:
        draft = self._drafts.take(text)
        self._drop_draft()
        self._begin_reply()
        self._do(t.CancelTimer("silence"), *self._voice.expect(), *self._filler_wait())
        self._do(t.StartReply(self.generation, text, draft))

    def _begin_reply(self) -> None:
        # The number before a reply's own is its filler's.
        self.generation += 1
        self._next_generation(None)
        self.state = "thinking"

    def _filler_wait(self) -> list[t.TurnCommand]:
        return [t.SetTimer("filler", self._ladder.filler_s)] if self._fillers else []

    def _think_again_in(self, language: Language) -> None:
        """The model wants another language: it says the same in it. What the callee waits for stays the same."""
        cleared = self.generation
        waiting = self.state == "thinking" and self._filler is None
        self._do(t.CancelReply(cleared), t.CancelTimer("resume"), t.ClearPlayout(cleared))
        self.generation += 1
        self._switch_language(language)
        self._begin_reply()
        self._do(*self._voice.asked_again(cleared))
        if not waiting:
            self._do(*self._filler_wait())
        self._do(t.StartReply(self.generation, None))

    def _ask_for_words(self) -> None:
        """The model's answer was heard to say nothing: once, it is asked again. Then it is a failure like another."""
        self._do(t.NoteCause(self.generation, "reply_without_words"))
        if self._asked_in_words:
            self._recover("llm", "the model says nothing", cause="llm_failed")
            return
        self._asked_in_words = True
        self._begin_reply()
        self._do(*self._voice.asked_again(), t.StartReply(self.generation, None, in_words=True))

    def _yield_to_callee(self) -> None:
        """Barge-in: whatever the agent says or thinks is over."""
        self._drop_reply()
        self._owed = self._with_owed(self._answer_due())
        self._unanswered.clear()
        self._goodbyes.forget()
        self._wait_for_callee()

    def _with_owed(self, text: str) -> str:
        return f"{self._owed} {text.strip()}".strip()

    def _hold_speech(self, text: str) -> None:
        self.state = "interrupted"
        self._held_on = text.strip()
        self._do(
            t.HoldPlayout(),
            *self._voice.held(),
            t.SetTimer("resume", self._policies.interruption.resume_after_s),
        )

    def _resume_speech(self) -> None:
        self._release()
        self._do(*self._voice.resumed())

    def _release(self) -> None:
        """A hold is over, also when what it was to hold had come to its end."""
        if self.state == "interrupted":
            self.state = "speaking"
            self._do(t.CancelTimer("resume"), t.ResumePlayout())

    def _wait_for_callee(self) -> None:
        self.state = "listening"
        self._do(t.SetTimer("silence", self._agent.limits.silence_timeout_s))

    def _drop_draft(self) -> None:
        self._do(*self._drafts.drop())

    def _opt_out(self, source: t.OptOutSource, text: str) -> None:
        if self._opted_out:
            return
        self._opted_out = True
        self._drop_reply()
        # First of all: whatever happens to the confirmation, it holds.
        self._commands.insert(0, t.OptOut(source, text))
        self._end("opted_out", None, "opted_out")

    @property
    def unfinished_turn(self) -> str:
        """What was heard of a turn of the callee's whose end was not told; empty where none is open."""
        return self._open_turn

    def _opted_out_at_last(self) -> bool:
        """Nothing follows on what was heard last: does that decide what it means?"""
        return not self._opted_out and self._opt_outs.heard(self._open_turn, final=True)

    def _switch_language(self, language: Language) -> None:
        self.language = language
        self._drop_draft()
        self._do(t.SwitchLanguage(language))

    # --- the agent ---

    @_on.register
    def _(self, event: t.ReplySentence) -> None:
        if event.generation == self.generation:
            self._text += event.text
            self._awaited = "tts"

    @_on.register
    def _(self, event: t.ToolCalled) -> None:
        if event.generation != self.generation or self.state not in ("thinking", "speaking", "interrupted"):
            return
        # The model may give anything, not only text.
        wanted = event.arguments.get("language")
        language = next((one for one in self._languages if one == wanted), None)
        if event.name == "opt_out":
            self._opt_out("model", str(event.arguments.get("reason") or "asked for by the callee"))
        elif event.name == "end_call":
            self._goodbyes.model_ends_the_call()
        elif event.name == "switch_language" and language == self.language:
            pass  # it is spoken already
        elif event.name == "switch_language" and language is not None and not self._switched_for_turn:
            self._switched_for_turn = True
            self._think_again_in(language)
        else:
            self._do(t.NoteCause(event.generation, f"tool_refused: {event.name}"))

    @_on.register
    def _(self, event: t.PlayoutStarted) -> None:
        current = event.generation == self.generation
        self._do(*self._voice.heard(event.generation, expected=current, ahead=event.generation == self._filler))
        if current and self.state == "thinking":
            self.state = "speaking"

    @_on.register
    def _(self, event: t.PlayoutDry) -> None:
        self._do(*self._voice.silent(event.generation))
        if event.generation != self.generation:
            return
        self._awaited = event.awaited
        if self.state != "interrupted":
            self._do(*self._voice.expect())
            # One that found no place, for the reply went on, is over.
            self._filler = None
            if self._wants_a_filler:
                self._do(*self._filler_wait())

    @_on.register
    def _(self, event: t.ReplyFinished) -> None:
        if event.generation == self.generation and self._speech is None and self._text.strip():
            self._failures = 0

    @_on.register
    def _(self, event: t.PlayoutDrained) -> None:
        self._do(*self._voice.silent(event.generation))
        if event.generation == self._filler:
            self._filler = None
            if self._wants_a_filler:
                self._do(*self._filler_wait())
        if event.generation != self.generation:
            return
        if is_question(self._text):
            self._goodbyes.agent_asked()
        if self.state == "thinking" and not self._goodbyes.farewell_due and not self._answer_due():
            self._ask_for_words()
            return
        self._release()
        self._do(*self._voice.over())
        if self._outcome is not None:
            self._hang_up(*self._outcome)
        elif self._speech is None and self._goodbyes.answered_with(self._text):
            # Both said goodbye, so nothing is left to say.
            self._hang_up("completed", None)
        elif self._goodbyes.farewell_due:
            self._end_politely("completed", None)
        elif (answer := self._answer_due()) or (self._speech == "duration_warning" and self._owed):
            self._answer(answer)
        elif self._warn_of_the_end and not self._callee_speaks:
            self._say_warning()
        else:
            self._unanswered.clear()
            self._wait_for_callee()

    def _answer_due(self) -> str:
        """What the callee said over the agent and wants answered."""
        question = self._text.rstrip().endswith("?")
        opening = self._speech == "opening"
        said = [
            turn.text.strip()
            for turn in self._unanswered
            if self._judge.answers(turn.text, question=question, left_s=turn.agent_left_s, opening=opening)
        ]
        return " ".join(said)

    # --- failures ---

    @_on.register
    def _(self, event: t.ReplyFailed) -> None:
        if event.generation != self.generation:
            if event.generation == self._filler:
                self._filler = None
            return
        if event.has_alternative and not self._voice.failed_over(event.stage) and self.state != "ending":
            self._fail_over(event.stage, f"{event.stage}_failed")
        else:
            self._recover(event.stage, event.detail, cause=f"{event.stage}_failed")

    def _fail_over(self, stage: Stage, cause: str) -> None:
        self._do(t.FailOver(self.generation, stage, cause), *self._voice.fail_over(stage))

    @_on.register
    def _(self, event: t.TranscriberFailed) -> None:
        if not self._connected:
            self._transcriber_fault = event.detail
        elif self._opted_out_at_last():
            self._opt_out("phrase", self._open_turn)
        elif self.state != "ending":
            self._drop_reply()
            self._do(t.NoteCause(self.generation, "stt_failed"))
            self._fail(event.detail, prepared_only=False)

    @_on.register
    def _(self, event: t.CalleeTurnLost) -> None:
        self._callee_speaks = False
        if self._opted_out_at_last():
            self._opt_out("phrase", self._open_turn)
        elif self.state == "listening":
            self._drop_draft()
            self._recover("stt", event.detail, cause="stt_failed")

    def _recover(self, stage: Stage, detail: str, *, cause: str) -> None:
        """Say that something went wrong, once; the second time in a row, say goodbye; when even that fails, hang up."""
        synthesizer_down = stage == "tts"
        self._do(t.NoteCause(self.generation, cause))
        if self.state == "interrupted":
            # What is held is the rest of what failed.
            self._drop_reply()
        else:
            self._do(t.CancelReply(self.generation))
        if self.state == "ending":
            self._hang_up(*(self._outcome or ("provider_failure", detail)))
            return
        if self._speech == "opening" and self.state != "listening":
            # What the law wants said first was not said: nothing else may follow.
            self._fail(detail, prepared_only=synthesizer_down)
            return
        if self._speech is not None and synthesizer_down and self._failures:
            # The apology itself could not be spoken.
            self._hang_up("provider_failure", detail)
            return
        self._failures += 1
        if self._failures >= 2:
            self._fail(detail, prepared_only=synthesizer_down)
            return
        self._goodbyes.forget()
        self._speak("apology", self._line("apology"), prepared_only=synthesizer_down, within=REPAIR_TIMEOUT_S)

    def _fail(self, detail: str, *, prepared_only: bool) -> None:
        self._end("provider_failure", detail, "failure_farewell", prepared_only=prepared_only, within=REPAIR_TIMEOUT_S)

    # --- timers and ends ---

    @_on.register
    def _(self, event: t.TimerFired) -> None:
        match event.name:
            case "filler" if self._wants_a_filler:
                self._say_filler()
            case "failover" if self.state in ("thinking", "speaking"):
                self._on_late_stage()
            case "reply" if self.state != "listening":
                self._give_up()
            case "resume" if self.state == "interrupted" and self._judge.says_something(self._open_turn):
                # "No", and no more: it is not the beginning of "no problem".
                self._yield_to_callee()
            case "resume" if self.state == "interrupted":
                self._resume_speech()
            case "silence" if self.state == "listening" and not self._callee_speaks:
                self._on_silence()
            case "silence" if self.state == "listening":
                # A turn whose end is never told: words would have moved the timer.
                self._callee_speaks = False
                self._wait_for_callee()
            case "duration_warning":
                self._warning_is_late = self._warn_of_the_end
                self._warn_of_the_end = True
                if self.state == "listening" and not self._callee_speaks:
                    self._say_warning()
                elif not self._warning_is_late and self.state != "ending":
                    self._do(t.SetTimer("duration_warning", self._agent.limits.duration_warning_s / 2))
            case "max_duration" if self.state != "ending":
                self._drop_reply()
                self._end_politely("max_duration", None)
            case "max_duration" if self._outcome is not None and self._outcome[0] == "silence":
                # From now on there is no time to go on in: a callee who is back is too late.
                self._outcome = ("max_duration", None)
            case "ending" if self.state == "ending":
                self._drop_reply()
                self._hang_up(*(self._outcome or ("failed", "the farewell did not end")))
            case _:
                pass

    def _on_late_stage(self) -> None:
        stage = self._awaited
        if not self._voice.failed_over(stage):
            self._fail_over(stage, f"{stage}_late")

    def _give_up(self) -> None:
        stage = self._awaited
        detail = f"no audio in time ({stage})"
        cause = f"{stage}_gave_up"
        if self._speech is not None or self.state == "ending":
            self._recover("tts", detail, cause=cause)
            return
        self._do(t.NoteCause(self.generation, cause), t.CancelReply(self.generation))
        self._fail(detail, prepared_only=stage == "tts")

    @property
    def _wants_a_filler(self) -> bool:
        """A reply is late, or has fallen dry, and no filler bridges it."""
        dry = self.state == "speaking" and self._speech is None and self._voice.waiting
        return self._filler is None and (self.state == "thinking" or dry)

    def _say_filler(self) -> None:
        text = self._fillers[self._fillers_said % len(self._fillers)]
        self._fillers_said += 1
        # Each filler of a reply has the same number: one is over before the next begins.
        self._filler = self.generation - 1
        self._do(
            t.NoteCause(self.generation, f"{self._awaited}_late"),
            t.SpeakLine(self._filler, "filler", text, prepared_only=True, before=self.generation),
        )

    @property
    def _fillers(self) -> tuple[str, ...]:
        return self._agent.fillers(self.language)

    def _on_silence(self) -> None:
        if self._silence_prompts >= self._agent.limits.silence_prompts:
            self._end_politely("silence", None)
            return
        self._silence_prompts += 1
        self._speak("still_there", self._line("still_there"))

    def _say_warning(self) -> None:
        self._warn_of_the_end = self._warning_is_late = False
        self._drop_draft()
        self._do(t.CancelTimer("duration_warning"))
        self._speak("duration_warning", self._line("duration_warning"))

    @_on.register
    def _(self, event: t.HangUpRequested) -> None:
        self._drop_reply()
        self._hang_up("opted_out" if self._opted_out else "agent_hung_up", event.detail)

    @_on.register
    def _(self, event: t.MediaClosed) -> None:
        outcome, detail = event.outcome, event.detail
        if self._outcome is not None:
            # The goodbye was being said: the call ended for its own reason.
            outcome, detail = self._outcome[0], self._outcome[1] or event.detail
        elif self._goodbyes.mentioned and outcome == "callee_hung_up":
            outcome = "completed"
        self._drop_reply()
        self._hang_up(outcome, detail)

    def _end_politely(self, outcome: Outcome, detail: str | None) -> None:
        self._end(outcome, detail, "farewell")

    def _end(
        self,
        outcome: Outcome,
        detail: str | None,
        line: LineName,
        *,
        prepared_only: bool = False,
        within: float | None = None,
    ) -> None:
        """Say a last line and hang up."""
        self._outcome = (outcome, detail)
        self._drop_draft()
        kind: t.LineKind = line
        self._speak(kind, self._line(line), prepared_only=prepared_only, within=within)
        self.state = "ending"
        self._do(t.SetTimer("ending", ENDING_TIMEOUT_S))

    def _line(self, name: LineName) -> str:
        return self._agent.line(name, self.language)

    def _hang_up(self, outcome: Outcome, detail: str | None) -> None:
        if self._opted_out_at_last():
            # "Don't call me", and the receiver is down before the transcriber tells the turn's end.
            self._do(t.OptOut("phrase", self._open_turn))
            outcome = "opted_out"
        self._drop_draft()
        names: tuple[t.TimerName, ...] = ("resume", "silence", "duration_warning", "max_duration", "ending")
        self._do(*self._voice.over(), *(t.CancelTimer(name) for name in names), t.HangUp(outcome, detail))
        self.state = "over"

    # --- generations ---

    def _next_generation(self, line: t.LineKind | None) -> None:
        self.generation += 1
        self._text = ""
        self._speech = line
        # A line needs no model; a reply waits for its text first.
        self._awaited = "llm" if line is None else "tts"
        self._filler = None
        self._voice.next_generation()

    def _speak(self, kind: t.LineKind, text: str, *, prepared_only: bool = False, within: float | None = None) -> None:
        self._next_generation(kind)
        self._text = text
        self.state = "speaking"
        self._do(t.CancelTimer("silence"), *self._voice.expect(within))
        self._do(t.SpeakLine(self.generation, kind, text, prepared_only))

    def _drop_reply(self) -> None:
        """Cancel what the agent is saying. Its generation is over: late events of it are ignored."""
        if self.state in ("thinking", "speaking", "interrupted", "ending"):
            self._do(
                t.CancelReply(self.generation),
                *self._voice.dropped(self.generation),
                t.CancelTimer("resume"),
                t.ClearPlayout(self.generation),
            )
            self.generation += 1
