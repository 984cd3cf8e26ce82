"""A recording has one clock: every sample of every part is found where its key says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.audio.mix import PartPlace, mix_parts, mix_recording, parts_prefix, peaks
from serve_app.audio.wavfile import SoundFileError, read_mono, read_sound, write_sound

PREFIX = parts_prefix("default", "c1")


def part(direction: str, offset: int, samples: list[int], rate: int = 16000) -> tuple[str, bytes]:
    place = PartPlace("callee" if direction == "callee" else "agent", offset, rate)
    return place.key(PREFIX), np.array(samples, dtype="<i2").tobytes()


def test_the_key_tells_the_place() -> None:
    key = PartPlace("agent", 80000, 16000).key(PREFIX)
    assert key == "recordings/default/c1/parts/agent-000000080000-16000.pcm"
    assert PartPlace.parse(key) == PartPlace("agent", 80000, 16000)


@pytest.mark.parametrize("key", ["", "a.pcm", "callee-12-16000.pcm", "agent-000000000000-0.pcm", "x/agent-1.flac"])
def test_other_keys_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="recording part"):
        PartPlace.parse(key)


def test_callee_is_left_agent_is_right_and_gaps_are_silence() -> None:
    timeline = mix_parts([part("agent", 2, [7, 8]), part("callee", 5, [3]), part("callee", 0, [1, 2])], 16000, None)
    assert timeline.tolist() == [[1, 0], [2, 0], [0, 7], [0, 8], [0, 0], [3, 0]]


@given(
    st.lists(st.tuples(st.sampled_from(["callee", "agent"]), st.integers(0, 40), st.integers(1, 50)), max_size=12),
    st.one_of(st.none(), st.integers(0, 1000)),
)
def test_every_part_lies_where_its_key_says(spans: list[tuple[str, int, int]], total: int | None) -> None:
    parts, expected, ends = [], {"callee": {}, "agent": {}}, {"callee": 0, "agent": 0}
    for number, (direction, gap, count) in enumerate(spans, start=1):
        start = ends[direction] + gap
        ends[direction] = start + count
        parts.append(part(direction, start, [number] * count))
        expected[direction].update(dict.fromkeys(range(start, start + count), number))
    duration = None if total is None else total / 16000
    timeline = mix_parts(reversed(parts), 16000, duration)
    assert len(timeline) == (max(ends.values()) if total is None else total)
    for channel, direction in enumerate(("callee", "agent")):
        assert timeline[:, channel].tolist() == [expected[direction].get(i, 0) for i in range(len(timeline))]


@settings(max_examples=10)
@given(st.sampled_from(["flac", "wav"]), st.floats(0.1, 3))
def test_an_encoded_recording_reads_back_sample_for_sample(file_format: str, duration_s: float) -> None:
    rng = np.random.default_rng(3)
    voice = rng.integers(-9000, 9000, 16000).tolist()
    parts = [part("callee", 0, voice), part("agent", 8000, voice)]
    mixed = mix_recording(parts, 16000, duration_s, "flac" if file_format == "flac" else "wav")
    samples, rate = read_sound(mixed.audio)
    assert (rate, samples.shape[1], mixed.channels) == (16000, 2, 2)
    assert abs(mixed.duration_s - duration_s) < 1 / 16000
    assert np.array_equal(samples, mix_parts(parts, 16000, duration_s))


def test_parts_at_another_rate_are_resampled_to_the_same_time() -> None:
    timeline = mix_parts([part("callee", 8000, [1000] * 8000, rate=8000)], 16000, None)
    assert len(timeline) == 32000
    assert np.count_nonzero(timeline[:16000]) == 0
    assert abs(int(timeline[24000, 0]) - 1000) <= 20


def test_a_part_cut_in_half_a_sample_is_used_up_to_it() -> None:
    key, audio = part("callee", 0, [5, 6, 7])
    assert mix_parts([(key, audio[:-1])], 16000, None)[:, 0].tolist() == [5, 6]


def test_peaks_see_the_loudest_sample_of_each_span() -> None:
    timeline = np.zeros((1000, 2), dtype=np.int16)
    timeline[999, 0], timeline[0, 1] = -32768, 16384
    left, right = peaks(timeline, 10)
    assert (left[-1], left[0], right[0], right[-1], len(left)) == (1.0, 0.0, 0.5, 0.0, 10)
    assert peaks(np.zeros((0, 2), dtype=np.int16)) == [[], []]


def test_any_wav_becomes_mono_at_the_wanted_rate(tmp_path: Path) -> None:
    path = tmp_path / "in.wav"
    stereo = np.stack([np.full(22050, 2000), np.full(22050, 4000)], axis=1).astype(np.int16)
    write_sound(path, stereo, 22050)
    mono = read_mono(path, 16000)
    assert len(mono) == 16000
    assert abs(int(mono[8000]) - 3000) <= 5


def test_a_broken_sound_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SoundFileError, match="not a readable sound file"):
        read_sound(b"RIFFnonsense")
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        read_sound(tmp_path / "none.wav")
