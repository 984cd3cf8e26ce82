"""A talk of several replies, cut at any millisecond: what the model is told and what is stored is what was heard."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.conversation.history import History
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.journal_writer import JournalWriter
from serve_app.conversation.transcript import Transcript
from serve_app.latency_budgets import LatencyBudgets
from tests.unit.far_end_fixtures import Call, FarEnd, Speech, Step, chunk_lists, far_ends, speeches, step_lists, talk
from tests.unit.session_fixtures import make_agent


@dataclass
class Stored:
    """Stands for the writer: the latest version of every turn."""

    turns: dict[int, TurnRecord] = field(default_factory=dict)

    def turn(self, record: TurnRecord) -> None:
        self.turns[record.index] = record

    def live(self, event: dict[str, object]) -> None: ...


@dataclass(frozen=True)
class Reply:
    speech: Speech
    chunks: list[tuple[int, int]]
    steps: list[tuple[int, Step]]


replies = st.lists(st.builds(Reply, speeches(), chunk_lists, step_lists), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(far_ends, replies)
def test_history_and_transcript_tell_what_was_heard(far: FarEnd, said: list[Reply]) -> None:
    stored, history, call = Stored(), History(make_agent()), Call(far)
    transcript = Transcript(
        cast(JournalWriter, stored), history, zero=0.0, budgets=LatencyBudgets(), on_reply=lambda *_: None
    )
    call.on_playing = lambda generation: transcript.agent_started(generation, call.now)
    call.on_spoken = transcript.agent_ended
    certain: dict[int, bool] = {}
    for generation, reply in enumerate(said, 1):
        history.add_callee(f"question {generation}")
        for piece in reply.speech.pieces:
            transcript.agent_text(generation, piece)
        complete = talk(call, reply.speech, reply.chunks, reply.steps, generation=generation)
        # Where no timings tell, how far a text that is still being spoken has come is a guess.
        certain[generation] = reply.speech.timed or complete
    assert (set(call.spoken), call.playout.idle) == (set(range(1, len(said) + 1)), True)

    sounded = [generation for generation in call.spoken if call.spoken[generation].started_at is not None]
    assert sounded == [generation for generation in call.spoken if far.of(generation)], "a turn for each that sounded"
    records = [stored.turns[index] for index in sorted(stored.turns)]
    assert [record.text for record in records] == [said[generation - 1].speech.text for generation in sounded]
    told: dict[str, str] = {}
    question = ""
    for message in history.request("c").messages[1:]:
        if message.role == "user":
            question = message.content
        else:
            told[question.rsplit("question ", 1)[1]] = message.content
    for generation, record in zip(sounded, records, strict=True):
        speech = said[generation - 1].speech
        assert told.get(str(generation), "") == record.heard_text, "the model knows no more and no less"
        truth, claimed = speech.written_words_heard(far.position_s(generation)), len(record.heard_text.split())
        assert speech.text.startswith(record.heard_text)
        assert record.interrupted == (record.heard_text != speech.text)
        if certain[generation]:
            assert claimed <= truth + 1
            # A mark that is lost, where others come, says that the far end may have stalled: less counts as heard then.
            assert claimed >= truth - 1 or far.marks == "some"
    for silent in set(call.spoken) - set(sounded):
        assert str(silent) not in told, "what made no sound was not said"
    starts = [record.started_ms for record in records]
    assert starts == sorted(starts)
