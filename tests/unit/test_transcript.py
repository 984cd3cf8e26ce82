"""What is written of the agent's turns: once when it is first heard, once when it is over, with the latency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from serve_app.conversation.history import History
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.latency import LatencyProbe
from serve_app.conversation.ledger import Spoken
from serve_app.conversation.transcript import Transcript
from serve_app.latency_budgets import LatencyBudgets
from tests.unit.session_fixtures import make_agent

ZERO = 100.0


@dataclass
class Written:
    """Stands for the writer: keeps what it is given."""

    records: list[TurnRecord] = field(default_factory=list)
    events: list[dict[str, object]] = field(default_factory=list)

    def turn(self, record: TurnRecord) -> None:
        self.records.append(record)

    def live(self, event: dict[str, object]) -> None:
        self.events.append(event)


class Story:
    """A transcript and everything that it tells."""

    def __init__(self) -> None:
        self.written = Written()
        self.replies: list[tuple[TurnRecord, LatencyProbe]] = []
        self.transcript = Transcript(
            cast(JournalWriter, self.written),
            History(make_agent()),
            zero=ZERO,
            budgets=LatencyBudgets(),
            on_reply=lambda record, probe: self.replies.append((record, probe)),
        )

    def asked(self, generation: int, *, speech_ended_s: float, turn_ended_s: float) -> LatencyProbe:
        probe = self.transcript.probe(generation)
        probe.speech_ended_at, probe.turn_ended_at = ZERO + speech_ended_s, ZERO + turn_ended_s
        return probe

    def ended(self, generation: int, at_s: float | None, text: str = "Yes.") -> None:
        at = None if at_s is None else ZERO + at_s
        heard = "" if at is None else text
        end, played_ms = (None, 0) if at is None else (at + 1, 1000)
        self.transcript.agent_ended(Spoken(generation, text, heard, at is None, at, end, played_ms))


def test_the_confirmed_time_is_in_the_record_that_is_stored_at_the_end_and_in_no_third_one() -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25)
    story.transcript.agent_started(1, ZERO + 1.4)
    story.transcript.confirmed(1, ZERO + 1.5)
    story.transcript.confirmed(1, ZERO + 9.0)
    story.ended(1, 1.4)
    story.transcript.confirmed(1, ZERO + 10.0)
    first, last = story.written.records
    assert (first.latency.total_ms, first.latency.confirm_ms) == (400, None)
    assert (last.latency.total_ms, last.latency.confirm_ms) == (400, 100)
    assert last.latency.within_target is True
    (told,) = [event for event in story.written.events if event["type"] == "latency"]
    assert (told["index"], told["stt_ms"], told["total_ms"]) == (0, 250, 400)


def test_what_goes_on_after_a_dry_spell_is_the_same_turn() -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25)
    story.transcript.agent_started(1, ZERO + 1.4)
    story.transcript.agent_started(1, ZERO + 3.0)
    assert len(story.written.records) == 1
    assert story.transcript.probe(1).first_frame_at == ZERO + 1.4


def test_a_reply_is_told_once_when_it_is_over() -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25).causes.append("llm_late")
    story.transcript.agent_started(1, ZERO + 2.0)
    assert story.replies == []
    story.ended(1, 2.0)
    ((record, probe),) = story.replies
    assert record is story.written.records[-1]
    assert record.latency.causes == ("llm_late",)
    assert probe.first_frame_at == ZERO + 2.0


def test_the_line_in_place_of_a_silent_reply_has_its_wait_and_its_causes() -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25).causes.append("llm_late")
    story.ended(1, None)
    assert story.replies == [] and story.written.records == []
    assert story.transcript.unheard_causes == ["llm_late"]
    story.transcript.probe(2).causes.append("llm_gave_up")
    story.ended(2, None)
    story.transcript.agent_started(3, ZERO + 7.0)
    story.ended(3, 7.0, "I am sorry.")
    ((record, _),) = story.replies
    assert record.index == 0
    assert record.latency.total_ms == 6000
    assert record.latency.over["total_ms"] == "limit"
    assert record.latency.causes == ("llm_late", "llm_gave_up")
    assert story.transcript.unheard_causes == []


def test_a_wait_is_over_once_the_callee_speaks_again_but_its_cause_is_told() -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25).causes.append("llm_late")
    story.ended(1, None)
    story.transcript.callee_turn("Hello?", confidence=None, started_at=ZERO + 3, ended_at=ZERO + 3.5)
    story.transcript.agent_started(2, ZERO + 9.0)
    story.ended(2, 9.0, "Are you still there?")
    ((record, _),) = story.replies
    assert record.latency.total_ms is None
    assert record.latency.causes == ("llm_late",)


def test_only_the_first_answer_to_a_turn_ends_the_wait_for_it() -> None:
    story = Story()
    for generation, heard_s in ((1, 1.5), (2, 8.0)):
        story.asked(generation, speech_ended_s=1.0, turn_ended_s=1.25)
        story.transcript.agent_started(generation, ZERO + heard_s)
        story.ended(generation, heard_s)
    story.asked(3, speech_ended_s=12.0, turn_ended_s=12.25)
    story.transcript.agent_started(3, ZERO + 12.5)
    story.ended(3, 12.5)
    assert [record.latency.total_ms for record, _ in story.replies] == [500, None, 500]


def test_a_filler_does_not_end_the_wait() -> None:
    """It answers nothing, so it has no total; the reply behind it has all of the wait."""
    story = Story()
    story.asked(2, speech_ended_s=1.0, turn_ended_s=1.25)
    story.transcript.note_cause(2, "llm_late")
    story.transcript.agent_started(1, ZERO + 2.5)
    story.ended(1, 2.5, "One moment.")
    story.transcript.agent_started(2, ZERO + 4.0)
    story.ended(2, 4.0)
    assert [(record.latency.total_ms, record.latency.causes) for record, _ in story.replies] == [
        (None, ()),
        (3000, ("llm_late",)),
    ]


def test_a_line_that_sounds_before_its_silent_reply_is_told_to_be_over_has_its_causes_all_the_same() -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25)
    story.transcript.note_cause(1, "llm_failed")
    story.transcript.agent_started(2, ZERO + 1.5)
    story.ended(1, None)
    story.ended(2, 1.5, "I am sorry.")
    story.asked(3, speech_ended_s=5.0, turn_ended_s=5.25)
    story.transcript.agent_started(3, ZERO + 6.0)
    story.ended(3, 6.0)
    assert [(record.latency.total_ms, record.latency.causes) for record, _ in story.replies] == [
        (500, ("llm_failed",)),
        (1000, ()),
    ]


def test_a_cause_without_an_utterance_is_on_the_record_of_what_is_heard_next_or_of_the_call() -> None:
    story = Story()
    story.transcript.agent_started(1, ZERO + 1.0)
    story.ended(1, 1.0)
    story.transcript.note_cause(1, "stt_failed")
    assert story.transcript.unheard_causes == ["stt_failed"]
    story.transcript.note_cause(2, "tts_failed")
    story.ended(2, None)
    assert story.transcript.unheard_causes == ["stt_failed", "tts_failed"]
    story.transcript.agent_started(3, ZERO + 4.0)
    story.ended(3, 4.0)
    assert [record.latency.causes for record, _ in story.replies] == [(), ("stt_failed", "tts_failed")]
    assert story.transcript.unheard_causes == []


def test_a_cause_that_lasts_is_told_once() -> None:
    story = Story()
    for cause in ("llm_late", "llm_late", "llm_gave_up"):
        story.transcript.note_cause(1, cause)
    assert story.transcript.probe(1).causes == ["llm_late", "llm_gave_up"]


@pytest.mark.parametrize("kind", ["turn", "latency"])
def test_live_events_have_the_names_of_the_record(kind: str) -> None:
    story = Story()
    story.asked(1, speech_ended_s=1.0, turn_ended_s=1.25)
    story.transcript.agent_started(1, ZERO + 2.0)
    event = next(event for event in story.written.events if event["type"] == kind)
    latency = cast(dict[str, Any], event["latency"] if kind == "turn" else event)
    assert {"stt_ms", "total_ms", "within_target", "over", "causes", "speculative"} <= latency.keys()
