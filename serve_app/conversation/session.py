"""One call: its media, its talk, its records. One task group; leaving it is the clean-up.

The cores (leg, turn machine, playout, recorder tracks) do no I/O; this driver carries their commands out. Everything
but audio goes through one inbox and one task, so that a fault in the talk ends this call and no other on the link.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import get_args

import structlog

from serve_app.clock import Clock
from serve_app.conversation import turn_types as t
from serve_app.conversation.call_report import CallReport
from serve_app.conversation.deadlines import DeadlineLadder
from serve_app.conversation.hearing import Hearing
from serve_app.conversation.history import History
from serve_app.conversation.journal import CallJournal
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.last_words import opt_out_in
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.leg_end import hang_up, outcome_of_close
from serve_app.conversation.lines import LineCache
from serve_app.conversation.phrases import Language
from serve_app.conversation.player import Player
from serve_app.conversation.playout import Notice, Playout
from serve_app.conversation.recorder import PartStore, Recorder
from serve_app.conversation.results import Results
from serve_app.conversation.speaker import Speaker
from serve_app.conversation.speculation import Speculation
from serve_app.conversation.timers import CallTimers
from serve_app.conversation.tools import REPORT_RESULT
from serve_app.conversation.transcript import Transcript
from serve_app.conversation.turn import TurnMachine
from serve_app.errors import ProviderError
from serve_app.providers.base import (
    AudioFormat,
    EagerTurnEnded,
    Message,
    PartialTranscript,
    Providers,
    SpeechStarted,
    SttEvent,
    SynthesisRequest,
    TranscriptionRequest,
    TurnEnded,
    TurnResumed,
)
from serve_app.settings import CallSettings
from serve_app.telephony.base import (
    AudioReceived,
    CallControl,
    DtmfReceived,
    Leg,
    LegConnected,
    LegEvent,
    LegFault,
    MediaPort,
    PlaybackConfirmed,
    WireMessage,
)

CONNECT_TIMEOUT_S = 10.0
"""From the session's start to the network's first message."""
LOST_TURN_WAIT_S = 1.0
"""After the transcriber lost a turn: a callee who still speaks starts a new one by then."""
OPT_OUT_WAIT_S = 1.0
FLUSH_TIMEOUT_S = 30.0
FINISH_TIMEOUT_S = 45.0
_TOOL_NAMES = frozenset(get_args(t.ToolName))
_IN_WORDS = Message(
    "system",
    "Your last answer had no words, so the other person has heard nothing, and waits. Answer now, in words. There are "
    "no other tools than those that you were given.",
)

log = structlog.get_logger()


class _TalkIsOver(Exception):  # noqa: N818  not an error
    """Leaves the task group: every task of the talk is cancelled."""


class CallSession:
    """Implements `MediaSink`. Make it, bind it to its channel, await `run`."""

    def __init__(
        self,
        lease: CallLease,
        leg: Leg,
        port: MediaPort,
        providers: Providers,
        journal: CallJournal,
        parts: PartStore,
        control: CallControl,
        settings: CallSettings,
        clock: Clock,
        *,
        lines: LineCache | None = None,
        speculation: Speculation | None = None,
        observe: Callable[[t.TurnEvent, Sequence[t.TurnCommand]], None] | None = None,
    ) -> None:
        """`lines`: prepared lines shared by the calls of a process, so that only the first call makes them; so is
        `speculation`, which judges by all of them whether drafts pay.

        `observe`: told of every event of the turn machine and of the commands that it answered with.
        """
        self._lease = lease
        self._leg = leg
        self._port = port
        self._providers = providers
        self._journal = journal
        self._control = control
        self._settings = settings
        self._clock = clock
        self._lines = lines if lines is not None else LineCache()
        self._speculation = speculation if speculation is not None else Speculation(settings.speculation)
        self._observe = observe
        self._log = log.bind(call_id=lease.call_id)

        self._machine = TurnMachine(
            lease.agent,
            ladder=DeadlineLadder(settings.filler_after_s, settings.failover_after_s, settings.give_up_after_s),
        )
        self._writer = JournalWriter(journal, lease)
        self._results = None if lease.lead_zone is None else Results(lease.lead_zone, clock, self._writer.report)
        self._history = History(lease.agent, () if self._results is None else (self._results.tool,))
        self._report = CallReport(lease, clock)
        self._recorder = Recorder(lease.tenant_id, lease.call_id, parts, part_s=settings.recording_part_s, clock=clock)
        self._media: _Media | None = None
        self._group: asyncio.TaskGroup | None = None
        self._inbox: deque[t.TurnEvent | LegEvent | SttEvent | Notice] = deque()
        self._wake = asyncio.Event()
        self._timers = CallTimers(self._post)
        self._lost_turn: asyncio.TimerHandle | None = None
        self._faults: set[str] = set()

        self._zero: float | None = None
        self._started_at: datetime = clock.now()
        self._speech_ended_at: float | None = None
        self._speech_started_at: float | None = None
        self._turn_ended_at: float | None = None
        self._state: t.TurnState = "listening"
        self._ending: t.HangUp | None = None
        self._superseded = False
        self._over = asyncio.Event()
        self._media_closed = asyncio.Event()
        self._closed_at: float | None = None

    # --- MediaSink ---

    def media_received(self, message: WireMessage) -> None:
        """On the media path: audio goes to its two queues, everything else to the inbox."""
        now = self._clock.monotonic()
        if self._zero is None:
            self._zero = now
        for event in self._leg.receive(message):
            if type(event) is AudioReceived:
                if (media := self._media) is not None:
                    media.hearing.receive(event.audio, now)
                    self._recorder.callee(event.audio, now)
                continue
            if isinstance(event, LegConnected) and self._media is None:
                self._media = self._connect(event.audio, now)
            self._post(event)

    def media_closed(self, reason: str) -> None:
        if self._closed_at is not None:
            return
        self._closed_at = self._clock.monotonic()
        self._media_closed.set()
        self._post(t.MediaClosed(outcome_of_close(reason), reason))

    # --- commands of people ---

    async def command(self, command: Mapping[str, object]) -> dict[str, object]:
        """A command from the call's mailbox. Never raises: `{"ok": bool, "error": str}`.

        `hangup` (optional `reason`) ends the call. `superseded`: a newer session holds the call, so this one leaves
        it alone: no hang-up on the network, no result in the journal.
        """
        kind = command.get("type")
        if kind not in ("hangup", "superseded"):
            return {"ok": False, "error": f"unknown command {kind!r}; known: hangup, superseded"}
        if self._over.is_set():
            return {"ok": False, "error": "the call is over"}
        self._superseded = self._superseded or kind == "superseded"
        self._post(t.HangUpRequested(str(command.get("reason") or f"command: {kind}")))
        return {"ok": True}

    # --- the call ---

    async def run(self) -> CallResult:
        """Talk until the call is over, close it, write what is left. Cancelled, it ends the call first."""
        cancelled: asyncio.CancelledError | None = None
        self._writer.started(self._started_at)
        async with asyncio.TaskGroup() as writers:
            tasks = (
                writers.create_task(self._recorder.run(), name="recorder"),
                writers.create_task(self._writer.run(), name="journal"),
            )
            try:
                await self._talk()
            except asyncio.CancelledError as error:
                cancelled = error
                self._ending = self._ending or t.HangUp("session_lost", "the session was stopped")
            except Exception:  # noqa: BLE001  root of the call
                self._log.exception("the call failed")
                self._ending = t.HangUp("failed", "internal error")
            await self._close_media()
            await self._hear_last_words()
            self._recorder.close()
            self._writer.close()
            _, late = await asyncio.wait(tasks, timeout=FLUSH_TIMEOUT_S)
            for task in late:
                self._log.error("the call's records were not written in time", writer=task.get_name())
                task.cancel()
        result = self._result()
        await self._finish(result)
        if cancelled is not None:
            raise cancelled
        return result

    async def _talk(self) -> None:
        loop = asyncio.get_running_loop()
        connecting = loop.call_later(CONNECT_TIMEOUT_S, self._not_connected)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._follow_inbox(), name="turns")
                await self._over.wait()
                raise _TalkIsOver
        except* _TalkIsOver:
            pass
        finally:
            self._group = None
            connecting.cancel()
            self._forget_lost_turn()
            self._timers.cancel_all()
            if self._media is not None:
                self._clear()
                self._settle()
                await self._media.speaker.close()

    def _not_connected(self) -> None:
        if self._media is None:
            self._post(t.MediaClosed("media_failure", "the network sent no connected message"))

    def _connect(self, audio: AudioFormat, now: float) -> _Media:
        """The parts of the talk that need the format. No I/O yet; `_begin` starts their tasks."""
        zero = self._zero if self._zero is not None else now
        agent, call_id = self._lease.agent, self._lease.call_id
        self._recorder.open(audio, zero)
        playout = Playout(audio, lead_ms=self._settings.lead_ms)
        transcript = Transcript(
            self._writer,
            self._history,
            zero=zero,
            budgets=self._settings.budgets,
            on_reply=self._report.replied,
        )
        hearing = Hearing(
            self._providers.stt,
            TranscriptionRequest(
                call_id,
                audio,
                agent.language,
                eager=agent.policies.speculate and self._speculation.allowed(now),
                languages=(agent.language, *agent.languages),
            ),
            on_event=self._post,
            on_turn_lost=self._on_turn_lost,
            on_failed=lambda error: self._post(t.TranscriberFailed(str(error))),
        )
        player = Player(
            playout,
            self._leg,
            self._port,
            clock=self._clock,
            on_notice=self._post,
            on_played=self._recorder.agent,
        )
        speaker = Speaker(
            agent=agent,
            tenant_id=self._lease.tenant_id,
            providers=self._providers,
            request=SynthesisRequest(call_id, audio, agent.voice, agent.language),
            playout=playout,
            transcript=transcript,
            clock=self._clock,
            lines=self._lines,
            speculation=self._speculation,
            emit=self._post,
            kick=player.kick,
        )
        return _Media(audio, playout, transcript, hearing, player, speaker)

    # --- the inbox ---

    def _post(self, event: t.TurnEvent | LegEvent | SttEvent | Notice) -> None:
        self._inbox.append(event)
        self._wake.set()

    async def _follow_inbox(self) -> None:
        while True:
            while self._inbox:
                self._handle(self._inbox.popleft())
            self._wake.clear()
            await self._wake.wait()

    def _handle(self, event: t.TurnEvent | LegEvent | SttEvent | Notice) -> None:
        match event:
            case LegConnected():
                self._begin()
            case PlaybackConfirmed(mark=mark):
                self._of_media().playout.confirm(mark, self._clock.monotonic())
                self._of_media().player.kick()
            case DtmfReceived(digit=digit):
                self._writer.live({"type": "dtmf", "digit": digit})
                self._dispatch(t.KeyPressed(digit))
            case LegFault(reason=reason):
                if reason not in self._faults and len(self._faults) < 20:
                    self._faults.add(reason)
                    self._log.warning("the network sent an unexpected message", reason=reason)
            case t.TimerFired():
                if self._timers.still_due(event):
                    self._dispatch(event)
            case Notice():
                self._on_notice(event)
            case SpeechStarted() | PartialTranscript() | EagerTurnEnded() | TurnResumed():
                self._on_speech(event)
            case TurnEnded():
                self._on_turn_ended(event)
            case _ if isinstance(event, t.TurnEvent):
                self._dispatch(event)
            case _:
                pass  # PlaybackCleared decides nothing

    def _begin(self) -> None:
        media, group = self._of_media(), self._of_group()
        if media.begun:
            return
        media.begun = True
        group.create_task(media.hearing.run(), name="hearing")
        group.create_task(media.player.run(), name="player")
        group.create_task(media.speaker.prepare(), name="prepare")
        self._dispatch(t.CallConnected())

    def _on_notice(self, notice: Notice) -> None:
        media = self._of_media()
        if notice.kind == "playing":
            media.transcript.agent_started(notice.generation, self._clock.monotonic())
            self._dispatch(t.PlayoutStarted(notice.generation))
        elif notice.kind == "confirmed":
            media.transcript.confirmed(notice.generation, self._clock.monotonic())
        elif notice.kind == "dry":
            self._dispatch(t.PlayoutDry(notice.generation, media.speaker.awaited(notice.generation)))
        else:
            if notice.spoken is not None:
                media.transcript.agent_ended(notice.spoken)
            self._dispatch(t.PlayoutDrained(notice.generation))

    def _on_speech(self, event: SpeechStarted | PartialTranscript | EagerTurnEnded | TurnResumed) -> None:
        match event:
            case SpeechStarted(text=text):
                self._speech_started_at = self._clock.monotonic()
                self._forget_lost_turn()
                self._writer.live({"type": "speech_started"})
                self._dispatch(t.CalleeSpeechStarted(text))
            case PartialTranscript(text=text):
                self._writer.live({"type": "partial", "text": text})
                self._dispatch(t.CalleePartial(text))
            case EagerTurnEnded(text=text):
                self._dispatch(t.CalleeTurnMayEnd(text))
            case TurnResumed():
                self._dispatch(t.CalleeTurnResumed())

    def _on_turn_ended(self, event: TurnEnded) -> None:
        now = self._clock.monotonic()
        media = self._of_media()
        self._turn_ended_at = now
        self._speech_ended_at = self._arrived(event.speech_end_s)
        if event.text.strip():
            first_word_s = event.words[0].start_s if event.words else None
            started_at = self._arrived(first_word_s) or self._speech_started_at or now
            # Barge-in first: the agent's turn that the callee cut short ends before the callee's own is told.
            media.transcript.callee_turn(
                event.text,
                confidence=event.confidence,
                started_at=started_at,
                ended_at=self._speech_ended_at or now,
            )
        self._speech_started_at = None
        self._dispatch(t.CalleeTurnEnded(event.text, media.playout.left_s(now)))

    def _on_turn_lost(self, error: ProviderError, quiet_s: float) -> None:
        self._forget_lost_turn()
        loop = asyncio.get_running_loop()
        wait_s = max(0.0, LOST_TURN_WAIT_S - quiet_s)
        self._lost_turn = loop.call_later(wait_s, self._post, t.CalleeTurnLost(str(error)))

    def _forget_lost_turn(self) -> None:
        if self._lost_turn is not None:
            self._lost_turn.cancel()
            self._lost_turn = None

    def _arrived(self, audio_s: float | None) -> float | None:
        return None if audio_s is None else self._of_media().hearing.arrival_time(audio_s)

    # --- the turn machine's commands ---

    def _dispatch(self, event: t.TurnEvent) -> None:
        called = isinstance(event, t.ToolCalled) and event.generation == self._machine.generation
        if isinstance(event, t.ToolCalled) and event.name == REPORT_RESULT and self._results is not None:
            if called:
                self._history.add_tool_call(event.name, event.arguments, self._results.called(event.arguments))
            return
        commands = self._machine.handle(event)
        # Other names than those of the tools are the model's invention, and some providers refuse a request with one.
        if isinstance(event, t.ToolCalled) and called and event.name in _TOOL_NAMES:
            refused = any(isinstance(command, t.NoteCause) for command in commands)
            self._history.add_tool_call(event.name, event.arguments, "refused" if refused else "done")
        if self._observe is not None:
            self._observe(event, commands)
        for command in commands:
            self._carry_out(command)
        if self._machine.state != self._state:
            self._state = self._machine.state
            self._writer.live({"type": "state", "state": self._state})

    def _carry_out(self, command: t.TurnCommand) -> None:
        match command:
            case t.StartReply():
                self._start_reply(command)
            case t.StartDraft(draft=draft, user_text=user_text):
                request = self._history.draft_request(self._lease.call_id, user_text)
                self._of_media().speaker.start_draft(self._of_group(), draft, request)
            case t.DropDraft(draft=draft):
                self._of_media().speaker.drop_draft(draft)
            case t.SpeakLine(kind="opted_out"):
                self._of_group().create_task(self._confirm_opt_out(command), name="opted-out")
            case t.SpeakLine():
                self._of_media().speaker.start_line(self._of_group(), command)
            case t.FailOver(generation=generation, cause=cause):
                self._of_media().transcript.note_cause(generation, cause)
                self._of_media().speaker.fail_over(self._of_group(), command)
            case t.CancelReply(generation=generation):
                if self._media is not None:
                    self._media.speaker.cancel(generation)
            case t.ClearPlayout():
                self._clear()
            case t.HoldPlayout():
                self._of_media().player.hold()
            case t.ResumePlayout():
                self._of_media().player.release()
            case t.NoteCause(generation=generation, cause=cause):
                self._of_media().transcript.note_cause(generation, cause)
            case t.OptOut(source=source, text=text):
                self._log.info("the callee opted out", source=source)
                self._writer.opt_out(source, text)
            case t.SwitchLanguage(language=language):
                self._switch_language(language)
            case t.SetTimer(name=name, seconds=seconds):
                self._timers.set(name, seconds)
            case t.CancelTimer(name=name):
                self._timers.cancel(name)
            case t.HangUp():
                self._ending = command
                self._over.set()

    def _start_reply(self, command: t.StartReply) -> None:
        media = self._of_media()
        if command.user_text is not None:
            self._history.add_callee(command.user_text)
        probe = media.transcript.probe(command.generation)
        probe.turn_ended_at, probe.speech_ended_at = self._turn_ended_at, self._speech_ended_at
        request = self._history.request(self._lease.call_id)
        if command.in_words:
            request = replace(request, messages=(*request.messages, _IN_WORDS))
        media.speaker.start_reply(self._of_group(), command.generation, request, draft=command.draft)

    async def _confirm_opt_out(self, line: t.SpeakLine) -> None:
        """The callee is told once it is so. A store that is slow or away is tried on, and must not cost silence."""
        await self._writer.opted_out(OPT_OUT_WAIT_S)
        if line.generation == self._machine.generation:
            self._of_media().speaker.start_line(self._of_group(), line)

    def _switch_language(self, language: Language) -> None:
        media = self._of_media()
        self._writer.live({"type": "language", "language": language})
        self._history.switch_language(language)
        media.hearing.switch_language(language)
        media.speaker.switch_language(language, self._lease.agent.voice_in(language))

    def _clear(self) -> None:
        if self._media is not None:
            for spoken in self._media.player.clear():
                self._media.transcript.agent_ended(spoken)

    def _settle(self) -> None:
        """Turns that ended while the talk was being left."""
        for event in self._inbox:
            if isinstance(event, Notice) and event.spoken is not None:
                self._of_media().transcript.agent_ended(event.spoken)
        self._inbox.clear()

    def _of_media(self) -> _Media:
        if self._media is None:
            raise RuntimeError("the media socket has not connected")
        return self._media

    def _of_group(self) -> asyncio.TaskGroup:
        if self._group is None:
            raise RuntimeError("the talk is over")
        return self._group

    # --- the end ---

    async def _close_media(self) -> None:
        """End the leg by REST, wait for the network to close its socket, else close it."""
        ending = self._ending or t.HangUp("failed", "the talk ended without a reason")
        self._ending = ending
        gone = self._closed_at is not None and ending.outcome != "media_failure"
        if not gone and not self._superseded:
            await hang_up(self._control, self._lease, self._media_closed)
        self._port.close("the call is over")
        if self._closed_at is None:
            self._closed_at = self._clock.monotonic()

    async def _hear_last_words(self) -> None:
        """A callee who asks never to be called again, and puts the receiver down, is not there for the answer."""
        ending = self._ending
        if self._superseded or ending is None or ending.outcome not in ("callee_hung_up", "completed"):
            return
        request = self._history.draft_request(self._lease.call_id, self._machine.unfinished_turn)
        reason = await opt_out_in(request, self._providers.llm, self._clock)
        if reason is not None:
            self._log.info("the callee opted out", source="model")
            self._writer.opt_out("model", reason)

    def _result(self) -> CallResult:
        ending = self._ending or t.HangUp("failed", None)
        closed_at = self._closed_at if self._closed_at is not None else self._clock.monotonic()
        audio = self._media.audio if self._media is not None else self._leg.audio
        return CallResult(
            call_id=self._lease.call_id,
            tenant_id=self._lease.tenant_id,
            outcome=ending.outcome,
            detail=ending.detail,
            started_at=self._started_at,
            ended_at=self._clock.now(),
            duration_s=round(max(0.0, closed_at - self._zero), 3) if self._zero is not None else 0.0,
            sample_rate_hz=audio.sample_rate_hz,
        )

    async def _finish(self, result: CallResult) -> None:
        if self._superseded:
            self._log.warning("superseded by a newer session: no result written")
            return
        try:
            async with asyncio.timeout(FINISH_TIMEOUT_S):
                if (report := self._writer.unwritten_report) is not None:
                    # Before the end, which decides what becomes of the lead.
                    await self._journal.report(self._lease, report)
                await self._journal.live(self._lease, {"type": "ended", "outcome": result.outcome})
                await self._journal.finished(self._lease, result)
        except Exception as error:  # noqa: BLE001  root of the call: the reconciler finishes what is left here
            self._log.error("the call's end was not written", error=repr(error))
        self._report.ended(result, self._media.transcript.unheard_causes if self._media is not None else ())


@dataclass(slots=True)
class _Media:
    """What exists once the media socket has told its format."""

    audio: AudioFormat
    playout: Playout
    transcript: Transcript
    hearing: Hearing
    player: Player
    speaker: Speaker
    begun: bool = False
