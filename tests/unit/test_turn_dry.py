"""The turn machine: a reply that falls dry after its beginning is bridged like one that is late."""

from __future__ import annotations

import pytest

from serve_app.conversation import turn_types as t
from tests.unit.turn_fixtures import Talk, causes, only

LADDER = {"filler": 1.2, "failover": 2.5, "reply": 6}


def dry(**changes: object) -> Talk:
    """Something of the reply was heard, and more must come."""
    talk = Talk.answering(**changes)
    talk.on(t.PlayoutDry(talk.generation, "llm"))
    return talk


def test_a_filler_comes_inside_a_reply_that_has_fallen_dry_and_the_wait_goes_on() -> None:
    talk = dry()
    reply = talk.generation
    assert (talk.state, talk.waits) == ("speaking", LADDER)
    commands = talk.fire("filler")
    filler = only(t.SpeakLine, commands)
    assert (filler.kind, filler.generation, filler.before) == ("filler", reply - 1, reply)
    assert filler.prepared_only
    assert causes(commands) == ["llm_late"]
    talk.on(t.PlayoutStarted(filler.generation))
    assert talk.waits == {"failover": 2.5, "reply": 6}
    talk.on(t.PlayoutDrained(filler.generation))
    assert talk.waits == LADDER, "and there may be another one"
    assert only(t.SpeakLine, talk.fire("filler")).text != filler.text


def test_the_reply_that_goes_on_ends_the_wait_with_or_without_a_filler() -> None:
    talk = dry()
    talk.on(t.PlayoutStarted(talk.generation))
    assert talk.waits == {}
    assert talk.on(t.TimerFired("filler")) == [], "it was on its way"
    talk.on(t.PlayoutDry(talk.generation, "llm"))
    filler = only(t.SpeakLine, talk.fire("filler")).generation
    talk.on(t.PlayoutStarted(filler), t.PlayoutStarted(talk.generation), t.PlayoutDrained(filler))
    assert (talk.state, talk.waits) == ("speaking", {})


def test_a_filler_that_found_no_place_keeps_none_from_the_next_dry_spell() -> None:
    talk = dry()
    # The reply went on at the same moment, so that nothing is told of the filler.
    talk.fire("filler")
    talk.on(t.PlayoutStarted(talk.generation), t.PlayoutDry(talk.generation, "tts"))
    assert talk.waits == LADDER
    assert only(t.SpeakLine, talk.fire("filler")).kind == "filler"


def test_one_filler_at_a_time() -> None:
    talk = dry()
    talk.fire("filler")
    assert talk.on(t.TimerFired("filler")) == []


def test_an_interruption_in_a_dry_spell_takes_the_filler_with_it() -> None:
    talk = dry()
    filler = only(t.SpeakLine, talk.fire("filler")).generation
    talk.on(t.PlayoutStarted(filler), t.CalleePartial("never mind that"))
    assert talk.on(t.PlayoutDrained(filler)) == []
    assert talk.waits == {"silence": 8}


@pytest.mark.parametrize("line", ["opening", "apology"])
def test_a_fixed_line_that_falls_dry_has_no_filler(line: str) -> None:
    talk = Talk()
    talk.on(t.CallConnected())
    if line == "apology":
        talk = Talk.answering()
        talk.on(t.ReplyFailed(talk.generation, "llm", True, "down"))
    talk.on(t.PlayoutStarted(talk.generation), t.PlayoutDry(talk.generation))
    assert talk.waits == {"failover": 2.5, "reply": 6}
    assert talk.on(t.TimerFired("filler")) == []
