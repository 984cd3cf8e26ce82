"""The runner of scenarios: what it plays, and above all what it does not let pass."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from serve_app.conversation import turn_types as t
from serve_app.providers.base import (
    AudioFormat,
    EagerTurnEnded,
    PartialTranscript,
    SpeechStarted,
    SttEvent,
    TranscriptionRequest,
    TurnEnded,
    TurnResumed,
)
from serve_app.scenarios.checks import almost_equal
from serve_app.scenarios.document import Scenario
from serve_app.scenarios.record import order
from serve_app.scenarios.report import print_played
from serve_app.scenarios.runner import Played, play, untruths
from serve_app.scenarios.scripted_stt import ScriptedTranscriber
from serve_app.scenarios.silence import SilenceWatch
from serve_app.scenarios.virtual_network import HeardWord, VirtualNetwork
from serve_app.scenarios.virtual_time import run_virtual
from serve_app.scenarios.vocabulary import FRAME_BYTES, FRAME_S, RATE_HZ, Vocabulary

AGENT = {
    "name": "tester",
    "business": "Test",
    "opening": "Hello, this is a test.",
    "system_prompt": "You test.",
    "policies": {"farewell": "Thank you. Goodbye."},
}
PARK = "You can park behind the building, and the entrance is on the left."


def scenario(steps: str, **changes: Any) -> Scenario:
    return Scenario.model_validate({"name": "s", "agent": AGENT, "steps": yaml.safe_load(steps), **changes})


def failures(steps: str, **changes: Any) -> list[str]:
    return list(play(scenario(steps, **changes)).failures)


ASK = f"- {{say: 'Where can I park?', reply: '{PARK}'}}\n"


def test_a_conversation_that_goes_as_expected_passes() -> None:
    played = play(
        scenario(
            "- expect: {line: opening, text: hello this is a test, within_ms: 500, interrupted: false}\n"
            + ASK
            + "- expect: {contains: [behind the building, LEFT], regex: 'left\\.$', line: reply, language: en}\n"
            + "- expect: {heard: 'You can park behind the building, and the entrance is on the left.'}\n"
            + "- {say: Goodbye., reply: Goodbye.}",
            expect={"outcome": "completed", "opted_out": False, "silence_below_s": 3},
        )
    )
    assert list(played.failures) == []
    assert played.passed
    assert played.call_s > 5


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ("text: Something else", "no utterance of the agent with text: 'Something else'; it said reply 'You can park"),
        ("contains: in front", "no utterance of the agent with contains: 'in front'"),
        ("regex: '^Park'", "no utterance of the agent with regex: '^Park'"),
        ("line: filler", "no utterance of the agent with line: 'filler'"),
        ("heard: You can park", "no utterance of the agent with heard: 'You can park'"),
        ("interrupted: true", "no utterance of the agent with interrupted: True"),
        ("language: es", "no utterance of the agent with language: 'es'"),
        ("within_ms: 300", "after "),
        ("contains: park, absent: true", "there was contains: 'park', and none was expected"),
        ("tool: opt_out", "the model did not call opt_out"),
        ("draft: dropped", "no draft was dropped"),
        ("cause: llm_late", "no cause 'llm_late' was recorded; there is none"),
        ("opted_out: true", "the number was not put on the do-not-call list"),
        ("outcome: silence", "the outcome is callee_hung_up, not silence"),
    ],
)
def test_what_is_not_as_expected_is_told_in_words(expected: str, told: str) -> None:
    found = failures(ASK + f"- expect: {{{expected}}}\n- hang_up: true")
    assert len(found) == 1
    assert found[0].startswith("steps.1.expect: ")
    assert told in found[0]


def test_an_expectation_is_about_its_own_step_only() -> None:
    again = ASK + "- {say: Thanks., reply: Sure.}\n- expect: {contains: park, absent: true}\n- hang_up: true"
    assert failures(again) == []


def test_a_step_that_the_call_does_not_reach_fails() -> None:
    found = failures("- {say: Goodbye., reply: Goodbye.}\n- say: 'Hello?'\n- expect: {text: x}")
    assert found == ["steps.1 was not reached: the call ended before (completed)"]


def test_a_call_that_nobody_ends_fails() -> None:
    steps = "- {say: Hi., reply: Hello.}"
    patient = {**AGENT, "limits": {"silence_timeout_s": 300}}
    assert failures(steps, agent=patient, max_duration_s=20) == ["the call still runs after 20 s"]


def test_an_agent_that_says_nothing_cannot_be_interrupted() -> None:
    patient = {**AGENT, "limits": {"silence_timeout_s": 300}}
    found = failures("- silence: 5\n- barge_in: {text: Stop, at_s: 1}\n- hang_up: true", agent=patient)
    assert found == ["steps.1: the agent did not speak so long within 20 s"]


def test_an_utterance_that_is_over_cannot_be_interrupted() -> None:
    found = failures(ASK + "- barge_in: {text: Stop it, at_s: 8}\n- hang_up: true")
    assert found[0] == "steps.1: the agent did not speak so long within 20 s"


def test_a_wait_is_held_to_its_limit() -> None:
    slow = "- {say: Where is it, reply: {text: Here., first_token_ms: 1100}}\n"
    # The draft begins 0.16 s before the end of the turn, and the first sound comes 0.1 s after the text.
    found = failures(slow + "- expect: {silence_below_s: 0.8}\n- hang_up: true")
    assert found == ["steps.1.expect: 1.0 s of silence from 3.7 s on, not below 0.8 s"]
    assert failures(slow + "- expect: {silence_below_s: 1.2}\n- hang_up: true") == []


def test_a_silence_without_a_cause_fails_whatever_was_expected() -> None:
    late = "- {say: 'Where?', reply: {text: Here., first_token_ms: 5000}}\n- {hang_up: true, patience_s: 20}"
    call = {"filler_after_s": 30, "failover_after_s": 30, "give_up_after_s": 20}
    found = failures(late, call=call, agent={**AGENT, "policies": {"fillers": ["Wait."]}})
    assert len(found) == 1
    assert "of silence from" in found[0] and "without a recorded cause" in found[0]


def test_a_barge_in_after_words_is_heard_up_to_there() -> None:
    played = play(
        scenario(
            ASK
            + "- {barge_in: {text: Sorry and where is the entrance, after_words: 3}, reply: On the left.}\n"
            + "- expect: {interrupted: true, contains: park}\n"
            # It began before the step: only its hearing belongs here.
            + "- expect: {contains: park, absent: true}\n"
            + "- expect: {text: On the left.}\n- hang_up: true"
        )
    )
    cut = next(u for u in played.record.utterances if u.interrupted)
    assert cut.text == PARK
    assert 3 <= len(cut.heard_text.split()) <= 6
    assert played.passed, played.failures


def test_the_same_scenario_has_the_same_order_every_time() -> None:
    again = scenario(ASK + "- hang_up: true")
    first, second = order(play(again).record), order(play(again).record)
    assert first == second
    assert "CalleeTurnEnded Where can I park?" in first
    assert any(line.startswith("-> StartReply Where can I park?") for line in first)
    assert not any("Timer" in line or line.startswith("CalleePartial") for line in first)


def test_the_timeline_shows_who_spoke_and_what_was_decided() -> None:
    def shown(played: Played, *, timeline: bool) -> str:
        console = Console(file=io.StringIO(), width=200)
        print_played(console, played, timeline=timeline)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    played = play(scenario(ASK + "- hang_up: true"))
    assert shown(played, timeline=False).count("\n") == 1
    told = shown(played, timeline=True)
    for part in ("callee  Where can I park?", "StartReply", f"reply  {PARK}", "hangs up", "HangUp  callee_hung_up"):
        assert part in told
    assert "StartReply" in shown(replace(played, failures=["x"]), timeline=False)


# --- its parts --------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.integers(1, 900)), min_size=1), st.integers(1, 500)
)
def test_an_ear_hears_every_word_sample_by_sample_whatever_the_chunks(said: list[tuple[str, int]], chunk: int) -> None:
    words = Vocabulary()
    pcm = b"".join(words.sound(text, samples / RATE_HZ)[1] + bytes(2) for text, samples in said)
    assert not any(pcm[i : i + 2] == b"\0\0" for i in range(0, said[0][1] * 2, 2))
    heard: dict[int, int] = {}
    for start in range(0, len(pcm), 2 * chunk):
        for word, samples in words.hear(pcm[start : start + 2 * chunk]):
            if word is not None:
                heard[word.number] = heard.get(word.number, 0) + samples
    assert list(heard.values()) == [samples for _, samples in said]


def transcribed(*segments: str, eager: bool = True, pause_s: float = 0.3, silence_s: float = 1.0) -> list[SttEvent]:
    """What the scripted transcriber tells of an utterance with pauses."""

    async def run() -> list[SttEvent]:
        words = Vocabulary()
        stt = ScriptedTranscriber(words, start_s=0.2, tells_eager=eager)
        stream = await stt.open(TranscriptionRequest("c", AudioFormat("linear16", RATE_HZ)))
        for i, segment in enumerate(segments):
            for j, text in enumerate(segment.split()):
                more = i < len(segments) - 1 and j == len(segment.split()) - 1
                stream.send(words.sound(text, 0.4, more_follows=more)[1])
            stream.send(bytes(FRAME_BYTES) * round((silence_s if i == len(segments) - 1 else pause_s) / FRAME_S))
        stream._events.put_nowait(None)
        return [event async for event in stream.events()]

    return run_virtual(run())


def test_the_transcriber_tells_what_is_in_the_sound() -> None:
    told = transcribed("where can I", "park", pause_s=0.7)
    kinds = [type(event) for event in told if not isinstance(event, PartialTranscript)]
    # The pause is longer than the end of a turn, but the words did not sound finished.
    assert kinds == [SpeechStarted, EagerTurnEnded, TurnResumed, EagerTurnEnded, TurnEnded]
    texts = [event.text for event in told if isinstance(event, SpeechStarted | EagerTurnEnded | TurnEnded)]
    assert texts == ["where", "where can I", "where can I park", "where can I park"]
    partials = [event.text for event in told if isinstance(event, PartialTranscript)]
    assert partials == sorted(partials, key=len) and "where can" in partials
    end = told[-1]
    assert isinstance(end, TurnEnded)
    assert end.speech_end_s == pytest.approx(3 * 0.4 + 0.7 + 0.4)


def test_a_transcriber_without_eager_events_tells_none() -> None:
    assert not any(isinstance(event, EagerTurnEnded | TurnResumed) for event in transcribed("one", "two", eager=False))


def silence_of(*marks: tuple[float, str]) -> list[tuple[float, float]]:
    """Silences of a call in which these things happen at these times."""
    watch, changes, sound = SilenceWatch(0.0), dict(marks), "quiet"
    for tick in range(1, 1500):
        now = round(tick * FRAME_S, 2)
        what = changes.get(now)
        if what == "turn":
            watch.event(t.CalleeTurnEnded("Where?"), now)
        elif what == "nothing":
            watch.event(t.CalleeTurnEnded(""), now)
        elif what == "drained":
            watch.event(t.PlayoutDrained(1), now)
        elif what == "unheard":
            watch.event(t.PlayoutDrained(3), now)
        elif what == "filler over":
            watch.event(t.PlayoutDrained(2), now)
        elif what == "over":
            watch.command(t.HangUp("completed"), now)
        elif what is not None:
            sound = what
        if what == "filler":
            watch.command(t.SpeakLine(2, "filler", "Um.", prepared_only=True, before=3), now)
        if what in ("agent", "filler"):
            watch.event(t.PlayoutStarted(1 if what == "agent" else 2), now)
        watch.tick(now, agent=sound in ("agent", "filler"), callee=sound == "callee")
    return [(round(silence.start, 1), round(silence.end, 1)) for silence in watch.silences]


def test_silence_is_what_the_agent_owes() -> None:
    opening = [(2.0, "agent"), (4.0, "quiet"), (4.02, "drained")]
    # The first wait counts from the call's beginning; after its opening the agent owes nothing.
    assert silence_of(*opening, (9.0, "callee"), (10.0, "quiet"), (10.5, "turn"), (14.0, "agent"), (20.0, "over")) == [
        (0.0, 2.0),
        (10.5, 14.0),
    ]
    # A turn of which nothing is ever told counts from the callee's last word.
    assert silence_of(*opening, (9.0, "callee"), (10.0, "quiet"), (16.0, "over")) == [(0.0, 2.0), (10.0, 16.0)]
    # A turn without words wants no answer.
    assert silence_of(*opening, (9.0, "callee"), (9.2, "quiet"), (9.7, "nothing"), (16.0, "over")) == [(0.0, 2.0)]
    # An utterance that breaks off in the middle: its end was not told.
    assert silence_of((2.0, "agent"), (4.0, "quiet"), (9.0, "agent"), (10.0, "over")) == [(0.0, 2.0), (4.0, 9.0)]


def test_a_reply_that_nobody_heard_ends_no_silence() -> None:
    opening = [(2.0, "agent"), (4.0, "quiet"), (4.02, "drained")]
    asked = [(9.0, "callee"), (10.0, "quiet"), (10.5, "turn")]
    assert silence_of(*opening, *asked, (11.0, "unheard"), (16.0, "over")) == [(0.0, 2.0), (10.5, 16.0)]


def test_after_a_filler_the_reply_is_still_owed() -> None:
    opening = [(2.0, "agent"), (4.0, "quiet"), (4.02, "drained")]
    asked = [(9.0, "callee"), (10.0, "quiet"), (10.5, "turn")]
    filler = [(12.0, "filler"), (12.5, "quiet"), (12.52, "filler over")]
    assert silence_of(*opening, *asked, *filler, (16.0, "agent"), (18.0, "quiet"), (18.02, "drained")) == [
        (0.0, 2.0),
        (10.5, 12.0),
        (12.5, 16.0),
    ]


def test_a_transcript_that_differs_from_what_was_heard_is_found() -> None:
    played = play(scenario(ASK + "- hang_up: true"))
    words = Vocabulary()

    async def ear() -> VirtualNetwork:
        net, at = VirtualNetwork(words), 0.0
        reply = played.record.utterances[-1]
        for text in PARK.split()[:5]:
            word, _ = words.sound(text, 0.3)
            net.heard.append(
                HeardWord(word, net.opened_at + reply.began + at, net.opened_at + reply.began + at + 0.3, word.samples)
            )
            at += 0.3
        return net

    net = run_virtual(ear())
    (told,) = untruths(played.record.utterances[-1:], net)
    assert told.startswith("the callee heard 'You can park behind the', but the transcript has 'You can park behind")


def test_one_word_more_or_less_is_almost_equal() -> None:
    assert almost_equal("One, two three.", "one two")
    assert not almost_equal("one two three", "one")
    assert not almost_equal("one two", "one too many")
