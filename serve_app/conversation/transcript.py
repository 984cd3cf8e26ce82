"""The transcript as it grows: turns in the order in which they began, what was heard of them, and their latency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from serve_app.conversation.history import History
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.latency import LatencyProbe
from serve_app.conversation.ledger import Spoken
from serve_app.latency_budgets import LatencyBudgets

APPROXIMATE_BELOW = 0.5
"""Mean word confidence under which a callee's text is only approximately what was said."""


@dataclass(slots=True)
class _AgentTurn:
    index: int
    started_at: float
    text: str


class Transcript:
    """Writes every turn to the journal and to the history that the language model sees."""

    def __init__(
        self,
        writer: JournalWriter,
        history: History,
        *,
        zero: float,
        budgets: LatencyBudgets,
        on_reply: Callable[[TurnRecord, LatencyProbe], None],
    ) -> None:
        """`zero`: monotonic time of the call's first message. `on_reply`: told of every agent turn that is over."""
        self._writer = writer
        self._history = history
        self._zero = zero
        self._budgets = budgets
        self._on_reply = on_reply
        self._next_index = 0
        self._agent_turns: dict[int, _AgentTurn] = {}
        self._texts: dict[int, str] = {}
        self._probes: dict[int, LatencyProbe] = {}
        self._answered: float | None = None
        """The end of the callee's turn that was answered last."""
        self._abandoned: LatencyProbe | None = None
        """Of the last utterance that made no sound, until one is heard."""

    def probe(self, generation: int) -> LatencyProbe:
        """The latency probe of a generation."""
        return self._probes.setdefault(generation, LatencyProbe())

    def note_cause(self, generation: int, cause: str) -> None:
        """Why the callee waits, or hears something else: once, however often it is noticed while it lasts."""
        causes = self.probe(generation).causes
        if cause not in causes:
            causes.append(cause)

    def callee_turn(self, text: str, *, confidence: float | None, started_at: float, ended_at: float) -> None:
        if self._abandoned is not None:
            # Whoever speaks waits no longer: the next reply is measured from here. What went wrong is still told.
            self._abandoned.speech_ended_at = self._abandoned.turn_ended_at = None
        approximate = confidence is not None and confidence < APPROXIMATE_BELOW
        record = TurnRecord(
            index=self._new_index(),
            role="callee",
            text=text,
            heard_text=text,
            started_ms=self._since_start(started_at),
            ended_ms=self._since_start(max(started_at, ended_at)),
            approximate=approximate,
        )
        self._put(record, state="ended")

    def agent_text(self, generation: int, text: str) -> None:
        """A piece of the agent's text went to the synthesizer."""
        self._texts[generation] = self._texts.get(generation, "") + text
        self._writer.live({"type": "agent_text", "generation": generation, "text": text})

    def agent_started(self, generation: int, now: float) -> None:
        """The first frame was sent. The turn is stored now, so that a process that dies leaves a trace of it."""
        if generation in self._agent_turns:
            return
        probe = self.probe(generation)
        probe.first_frame_at = now
        for silent in self._take_silent(generation):
            probe.carry_over(silent)
        if probe.turn_ended_at is not None and probe.turn_ended_at == self._answered:
            # More of an answer (what a tool told, for example): the callee's wait was over when it began.
            probe.speech_ended_at = probe.turn_ended_at = None
        else:
            self._answered = probe.turn_ended_at
        turn = _AgentTurn(self._new_index(), now, self._texts.get(generation, ""))
        self._agent_turns[generation] = turn
        at_ms = self._since_start(now)
        record = TurnRecord(turn.index, "agent", turn.text, "", at_ms, at_ms, latency=probe.latency(self._budgets))
        self._put(record, state="started")
        self._writer.live({"type": "latency", "index": turn.index, **asdict(record.latency)})

    def _take_silent(self, before: int) -> list[LatencyProbe]:
        """Of the generations that made no sound and will make none, latest first.

        Generations are played in their order: at the first frame of one, those before it have been heard or never will
        be. The news that such a one is over may come later, and some have no utterance at all.
        """
        generations = [generation for generation in self._probes if generation < before]
        silent = sorted((g for g in generations if g not in self._agent_turns), reverse=True)
        probes = [self._probes.pop(generation) for generation in silent]
        if self._abandoned is not None:
            probes.append(self._abandoned)
            self._abandoned = None
        return probes

    def confirmed(self, generation: int, now: float) -> None:
        """The network told that the first frame was played. It is stored with the end of the turn."""
        if generation in self._agent_turns and (probe := self.probe(generation)).first_confirmed_at is None:
            probe.first_confirmed_at = now

    def agent_ended(self, spoken: Spoken) -> None:
        """The utterance is over. One that was cancelled before a sound leaves no turn, but its causes to the next."""
        turn = self._agent_turns.pop(spoken.generation, None)
        probe = self._probes.pop(spoken.generation, LatencyProbe())
        self._texts.pop(spoken.generation, None)
        if turn is None:
            for silent in self._take_silent(spoken.generation):
                probe.carry_over(silent)
            self._abandoned = probe
            return
        self._history.add_agent(spoken.heard_text)
        started_at = spoken.started_at if spoken.started_at is not None else turn.started_at
        ended_at = spoken.ended_at if spoken.ended_at is not None else started_at
        record = TurnRecord(
            index=turn.index,
            role="agent",
            text=spoken.text.strip(),
            heard_text=spoken.heard_text.strip(),
            started_ms=self._since_start(started_at),
            ended_ms=self._since_start(ended_at),
            interrupted=spoken.interrupted,
            latency=probe.latency(self._budgets),
        )
        self._put(record, state="ended")
        self._on_reply(record, probe)

    @property
    def unheard_causes(self) -> list[str]:
        """Why nothing was heard after the last turn, if that is how it stands."""
        silent = [
            self._probes[generation] for generation in sorted(self._probes) if generation not in self._agent_turns
        ]
        abandoned = [] if self._abandoned is None else [self._abandoned]
        return [cause for probe in (*abandoned, *silent) for cause in probe.causes]

    def _put(self, record: TurnRecord, *, state: str) -> None:
        self._writer.turn(record)
        self._writer.live({"type": "turn", "state": state, **asdict(record)})

    def _new_index(self) -> int:
        index = self._next_index
        self._next_index += 1
        return index

    def _since_start(self, at: float) -> float:
        return round(max(0.0, at - self._zero) * 1000, 1)
