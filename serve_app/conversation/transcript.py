"""The transcript as it grows: turns in the order in which they began, what was heard of them, and their latency."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from serve_app.conversation.history import History
from serve_app.conversation.journal import TurnLatency, TurnRecord
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.ledger import Spoken

APPROXIMATE_BELOW = 0.5
"""Mean word confidence under which a callee's text is only approximately what was said."""


@dataclass(slots=True)
class LatencyProbe:
    """Monotonic times of one agent reply, each None until it happened; a line that answers nobody has the last ones."""

    speech_ended_at: float | None = None
    """The callee's last sound."""
    turn_ended_at: float | None = None
    """The transcriber's end of turn."""
    first_token_at: float | None = None
    first_sentence_at: float | None = None
    """The first piece of text was given to the synthesizer."""
    first_audio_at: float | None = None
    first_frame_at: float | None = None
    """On the wire."""
    first_confirmed_at: float | None = None
    """The network told that it began to play."""
    causes: list[str] = field(default_factory=list)
    """Why the callee waited, or heard something else than the reply: in the order in which they were noted."""
    speculative: bool = False
    """The reply began as a draft, before the end of the turn was certain."""

    def latency(self) -> TurnLatency:
        return TurnLatency(
            end_of_turn_ms=_ms(self.speech_ended_at, self.turn_ended_at),
            llm_first_token_ms=_ms(self.turn_ended_at, self.first_token_at),
            tts_first_audio_ms=_ms(self.first_sentence_at, self.first_audio_at),
            first_frame_ms=_ms(self.first_audio_at, self.first_frame_at),
            total_ms=_ms(self.speech_ended_at, self.first_frame_at),
        )


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(max(0.0, end - start) * 1000, 1)


@dataclass(slots=True)
class _AgentTurn:
    index: int
    started_at: float
    text: str


class Transcript:
    """Writes every turn to the journal and to the history that the language model sees."""

    def __init__(self, writer: JournalWriter, history: History, *, zero: float) -> None:
        self._writer = writer
        self._history = history
        self._zero = zero
        self._next_index = 0
        self._agent_turns: dict[int, _AgentTurn] = {}
        self._texts: dict[int, str] = {}
        self._probes: dict[int, LatencyProbe] = {}

    def probe(self, generation: int) -> LatencyProbe:
        """The latency probe of a generation."""
        return self._probes.setdefault(generation, LatencyProbe())

    def callee_turn(self, text: str, *, confidence: float | None, started_at: float, ended_at: float) -> None:
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
        turn = _AgentTurn(self._new_index(), now, self._texts.get(generation, ""))
        self._agent_turns[generation] = turn
        at_ms = self._since_start(now)
        record = TurnRecord(turn.index, "agent", turn.text, "", at_ms, at_ms, latency=probe.latency())
        self._put(record, state="started")
        self._writer.live({"type": "latency", "index": turn.index, **asdict(record.latency)})

    def agent_ended(self, spoken: Spoken) -> None:
        """The utterance is over. One that was cancelled before a sound leaves no turn."""
        turn = self._agent_turns.pop(spoken.generation, None)
        probe = self._probes.pop(spoken.generation, LatencyProbe())
        self._texts.pop(spoken.generation, None)
        if turn is None:
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
            latency=probe.latency(),
        )
        self._put(record, state="ended")

    def _put(self, record: TurnRecord, *, state: str) -> None:
        self._writer.turn(record)
        self._writer.live({"type": "turn", "state": state, **asdict(record)})

    def _new_index(self) -> int:
        index = self._next_index
        self._next_index += 1
        return index

    def _since_start(self, at: float) -> float:
        return round(max(0.0, at - self._zero) * 1000, 1)
