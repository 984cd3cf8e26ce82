"""Calls through the whole chain on a real Serve: what is heard, what is stored, what becomes of a provider's fault."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from serve_app.simulators.speech import speak
from tests.integration.harness import Running, eventually
from tests.integration.platform.scripted import Ended, Script, Steps
from tests.integration.sounds import contains, heard, sound_file, sounding, unanswered

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PATIENCE_MS = 20_000
"""Three times the platform's longest deadline: silence for as long is a hang, on the slowest machine too. How long a
silence may be is asserted on virtual time (tests/unit/test_session_faults.py and test_chaos.py)."""
CAR = "Where can I park my car"


def scripts(*all_of_them: Script) -> pytest.MarkDecorator:
    """The test, once for each script."""
    return pytest.mark.parametrize("ended", all_of_them, indirect=True, ids=lambda script: script.name)


def plays_speech(rate_hz: int, channels: int) -> Steps:
    samples = speak(CAR, voice="callee-en", rate_hz=rate_hz).pcm
    file = sound_file(np.column_stack([samples] * channels), rate_hz)
    # A pause that a busy machine makes in the answer is not taken for its end: the callee interrupts nothing.
    thanks = {"say": "Thank you. Goodbye.", "pause_ms": 1500, "patience_ms": PATIENCE_MS}
    return [{"play_base64": file, "transcript": CAR}, thanks, {"listen": True}]


@scripts(
    Script("44100 Hz, stereo", "+12025550120", partial(plays_speech, 44100, 2)),
    Script("8000 Hz, mono", "+12025550121", partial(plays_speech, 8000, 1)),
)
def test_a_sound_file_reaches_the_recogniser_unharmed(platform: Running, ended: Ended) -> None:
    """The PCM that enters the leg occurs as one contiguous run in what the STT stand-in received."""
    assert ended.call["outcome"] == "completed", ended.call
    media = platform.network(ended.id)["media"]
    assert (media["wrong_size"], media["overflowed_frames"], media["cleared_frames"]) == (0, 0, 0)
    said = media["utterances"][0]
    entered = platform.sim.get(f"/sim/calls/{ended.id}/utterances/0.pcm").raise_for_status().content
    assert len(entered) == said["bytes"] > 16000
    received = platform.sim.get(f"/sim/calls/{ended.id}/stt_audio").raise_for_status().content
    assert received.count(entered) == 1
    turns = platform.turns(ended.id)
    assert next(t["text"] for t in turns if t["role"] == "callee") == CAR
    assert not any(t["approximate"] for t in turns)
    assert "Parking is free" in " ".join(t["text"] for t in turns if t["role"] == "agent")
    description, recorded = platform.recording(ended.id)
    assert abs(description["duration_s"] - ended.call["duration_s"]) <= 0.04
    assert contains(recorded[:, 0], np.frombuffer(entered, dtype="<i2"))
    # Sample for sample and in order, whether or not a busy machine made pauses in it.
    agent = sounding(heard(platform, ended.id))
    assert len(agent) > 16000
    assert np.array_equal(sounding(recorded[:, 1]), agent)


def speaks_without_a_text() -> Steps:
    speech = speak("where is the practice", voice="callee-en", rate_hz=16000).pcm
    noise = np.random.default_rng(1).normal(0, 6000, 12000).astype("int16")
    sounds = [{"play_base64": sound_file(samples, 16000), "patience_ms": PATIENCE_MS} for samples in (speech, noise)]
    # Not before the agent has taken its turn: how long recognition takes is the machine's doing.
    return [*sounds, {"hang_up": True, "pause_ms": 700, "patience_ms": PATIENCE_MS}]


@scripts(Script("speech and noise", "+12025550122", speaks_without_a_text))
def test_speech_without_a_transcript_is_recognised_and_marked(platform: Running, ended: Ended) -> None:
    assert ended.call["outcome"] == "callee_hung_up"
    callee = [turn for turn in platform.turns(ended.id) if turn["role"] == "callee"]
    assert len(callee) >= 2, "speech that cannot be read still makes a turn"
    assert all(turn["approximate"] and turn["text"] for turn in callee)


def asks(*questions: str) -> Steps:
    said = [{"say": text, "patience_ms": PATIENCE_MS} for text in (*questions, "Goodbye.")]
    return [*said, {"listen": True}]


@scripts(Script("inbound", "+12025550150", partial(asks, CAR), inbound=True))
def test_an_inbound_call_is_answered_by_the_default_agent(platform: Running, ended: Ended) -> None:
    assert (ended.call["direction"], ended.call["outcome"]) == ("inbound", "completed")
    assert "Parking is free" in " ".join(turn["text"] for turn in platform.turns(ended.id))


def faulty(number: int, provider: str, kind: str, question: str, containing: str | None = None, **extra: int) -> Script:
    """A call whose provider fails once: at a text of this call alone, or, in its own stream, some seconds into it."""
    fault = {"provider": provider, "kind": kind, "count": 1, **extra}
    return Script(
        f"{provider}-{kind}",
        f"+120255501{number}",
        partial(asks, question, "Where can I park?"),
        # It rings while the fault is switched on.
        {"answer_after_ms": 2000, "max_duration_s": 120},
        fault=fault if containing is None else {**fault, "containing": containing},
    )


FAULTS = (
    faulty(60, "llm", "unauthorized", "Where is the practice, Anna here?", "Anna"),
    faulty(61, "llm", "rate_limited", "Where is the practice, Bella here?", "Bella"),
    faulty(62, "llm", "hang", "Where is the practice, Clara here?", "Clara"),
    faulty(63, "llm", "cut", "Where is the practice, Diana here?", "Diana", after=3),
    faulty(64, "cartesia", "cut", "Who is the dentist?", "Doctor Rivera", after=2),
    faulty(65, "cartesia", "hang_mid_stream", "On which floor is the waiting room?", "second floor", after=2),
    faulty(66, "deepgram", "cut", "Where is the practice?", after=20),
)


@scripts(*FAULTS)
def test_a_failing_provider_ends_in_speech_or_a_clean_end(platform: Running, ended: Ended) -> None:
    assert ended.call["outcome"] in ("completed", "provider_failure"), ended.call
    fault = ended.script.fault
    assert fault is not None
    name = fault.get("containing", ended.id)
    waiting = platform.sim.get("/sim/faults").raise_for_status().json()
    assert [left for left in waiting if name in (left["containing"], left["call_id"])] == [], "the fault hit the call"
    media = platform.network(ended.id)["media"]
    frame = media["sample_rate_hz"] // 50
    assert unanswered(heard(platform, ended.id), media["utterances"], frame) == []
    platform.recording(ended.id)


QUESTIONS = ("Where is the practice?", "Where can I park?", "What should I bring?") * 2


@scripts(*(Script(f"call {n}", f"+1202555013{n}", partial(asks, text)) for n, text in enumerate(QUESTIONS)))
def test_calls_at_once_do_not_mix(platform: Running, ended: Ended) -> None:
    """Many calls on one session process: each has its own transcript."""
    assert ended.call["outcome"] == "completed", ended.call
    texts = [turn["text"] for turn in platform.turns(ended.id) if turn["role"] == "callee"]
    assert texts == [step["say"] for step in ended.script.steps() if "say" in step]


def test_many_calls_at_once_leave_nothing_behind(platform: Running) -> None:
    """The calls of this module are over: all slots are free."""
    eventually(lambda: platform.api.get("/health").json()["capacity"]["used"] == 0, 60)
