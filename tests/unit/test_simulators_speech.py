"""Speech, its segments, scripts, latencies, and the process that runs the stand-ins."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.simulators.latency import Constant, Delays, LatencyConfig, LogNormal, Normal
from serve_app.simulators.scripts import ScriptBook
from serve_app.simulators.speech import VOICES, speak
from serve_app.simulators.vad import SpeechBegan, SpeechDetector, SpeechPaused, segment_speech

SENTENCES = "It's ten o'clock at 12 Harbor Street. Don't worry about that."


@pytest.mark.parametrize("voice", sorted(VOICES))
@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
def test_every_voice_speaks_at_every_rate(voice: str, rate_hz: int) -> None:
    speech = speak("Hello one two three.", voice=voice, rate_hz=rate_hz)
    assert speech.rate_hz == rate_hz and speech.pcm.dtype == np.int16 and speech.pcm.ndim == 1
    assert 0.5 < speech.duration_s < 4
    assert np.abs(speech.pcm.astype(int)).max() > 3000


def test_callee_and_agent_sound_different() -> None:
    callee, agent = (speak("Hello there.", voice=voice).pcm for voice in ("callee-en", "agent-en"))
    assert len(callee) != len(agent) or not np.array_equal(callee, agent)


def test_an_unknown_voice_is_an_error() -> None:
    with pytest.raises(ValueError, match="no voice"):
        speak("Hello.", voice="nobody")


@given(st.lists(st.sampled_from(SENTENCES.split()), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_words_have_times_in_order_within_the_audio(words: list[str]) -> None:
    speech = speak(" ".join(words))
    assert [word.text for word in speech.words] == words
    edges = [edge for word in speech.words for edge in (word.start_s, word.end_s)]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= speech.duration_s + 0.001


def test_empty_text_is_silence() -> None:
    assert speak("").words == ()


def test_sentences_are_segments_and_the_detector_agrees_frame_by_frame() -> None:
    pcm = np.concatenate([np.zeros(8000, np.int16), speak(SENTENCES).pcm, np.zeros(16000, np.int16)])
    segments = segment_speech(pcm, 16000)
    assert len(segments) == 2
    detector = SpeechDetector(16000)
    events = [detector.feed(pcm[i : i + 320]) for i in range(0, len(pcm), 320)]
    assert [e.at_sample for e in events if isinstance(e, SpeechBegan)] == [first for first, _ in segments]
    assert [e.at_sample for e in events if isinstance(e, SpeechPaused)] == [end for _, end in segments]


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=20))
@settings(max_examples=50, deadline=None)
def test_segments_are_ordered_apart_and_inside(runs: list[tuple[int, bool]]) -> None:
    pieces = [np.full(frames * 160, 3000 if loud else 0, np.int16) for frames, loud in runs]
    pcm = np.concatenate(pieces) if pieces else np.zeros(0, np.int16)
    segments = segment_speech(pcm, 8000)
    flat = [edge for segment in segments for edge in segment]
    assert flat == sorted(flat) and all(0 <= edge <= len(pcm) for edge in flat)
    for (_, end), (start, _) in itertools.pairwise(segments):
        assert start - end >= 8000 * 300 // 1000


def test_scripts_are_queued_per_call_and_segments_know_what_follows() -> None:
    book = ScriptBook()
    book.expect("a", "one")
    book.expect_segments("a", ["two", "three"])
    book.expect("b", "other")
    taken = [book.next_segment("a") for _ in range(4)]
    assert [(s.text, s.more_follows) for s in taken if s] == [("one", False), ("two", True), ("three", False)]
    assert taken[3] is None and book.pending("b") == 1
    book.forget("b")
    assert book.next_segment("b") is None


def test_latencies_follow_their_distribution_and_their_seed() -> None:
    rng = random.Random(7)
    assert Constant(ms=5).draw_ms(rng) == 5
    assert all(Normal(mean_ms=1, sd_ms=50).draw_ms(rng) >= 0 for _ in range(200))
    drawn = sorted(LogNormal(median_ms=100, p95_ms=300).draw_ms(rng) for _ in range(4000))
    assert drawn[2000] == pytest.approx(100, rel=0.1)
    assert drawn[3800] == pytest.approx(300, rel=0.15)
    one, same = (Delays(LatencyConfig(), 3) for _ in range(2))
    assert [one.draw_s("llm_first_token") for _ in range(5)] == [same.draw_s("llm_first_token") for _ in range(5)]


@pytest.fixture
def process() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.simulators", "--port", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


@pytest.mark.parametrize("end", ["stdin", "SIGTERM"])
def test_the_process_says_where_it_is_and_does_not_outlive_its_parent(
    process: subprocess.Popen[bytes], end: str
) -> None:
    assert process.stdout is not None and process.stdin is not None
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["url"] == f"http://127.0.0.1:{ready['port']}" and ready["pid"] == process.pid
        if end == "stdin":
            process.stdin.close()
        else:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            time.sleep(0)
            process.wait()
        process.stdout.close()
