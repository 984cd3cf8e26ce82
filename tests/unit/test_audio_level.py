"""The cheap test for sound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio.g711 import mulaw_encode
from serve_app.audio.level import QUIET, may_sound, mean_magnitude


@given(st.lists(st.integers(-QUIET, QUIET - 1), max_size=320))
def test_line_noise_is_quiet(samples: list[int]) -> None:
    assert not may_sound(np.array(samples, dtype="<i2").tobytes(), "linear16")


@pytest.mark.parametrize("rate_hz", [8000, 16000, 24000])
@pytest.mark.parametrize("frequency_hz", [100, 440, 1500])
@pytest.mark.parametrize("encoding", ["linear16", "mulaw"])
def test_a_tone_well_above_it_sounds_in_every_frame(rate_hz: int, frequency_hz: int, encoding: str) -> None:
    tone = (np.sin(np.arange(rate_hz) * 2 * np.pi * frequency_hz / rate_hz) * 4 * QUIET).astype("<i2").tobytes()
    audio = mulaw_encode(tone) if encoding == "mulaw" else tone
    frame = rate_hz // 50 * (1 if encoding == "mulaw" else 2)
    assert all(may_sound(audio[at : at + frame], encoding) for at in range(0, len(audio), frame))


def test_silence_of_both_encodings_is_quiet() -> None:
    assert not may_sound(bytes(640), "linear16")
    assert not may_sound(b"\xff" * 160, "mulaw")
    assert not may_sound(b"\x7f" * 160, "mulaw")
    assert not may_sound(b"", "linear16")


@pytest.mark.parametrize("encoding", ["linear16", "mulaw"])
@pytest.mark.parametrize("peak", [500, 2000, 12_000])
def test_the_mean_magnitude_is_right_to_half_a_step(peak: int, encoding: str) -> None:
    samples = (np.random.default_rng(1).uniform(-peak, peak, 16_000)).astype("<i2")
    audio = mulaw_encode(samples.tobytes()) if encoding == "mulaw" else samples.tobytes()
    assert mean_magnitude(audio, encoding) == pytest.approx(np.abs(samples.astype(int)).mean(), abs=128, rel=0.03)


def test_the_extremes_have_a_magnitude() -> None:
    assert mean_magnitude(b"\x00\x80" * 320, "linear16") == pytest.approx(32_768, abs=128)
    assert mean_magnitude(b"\xff\x7f" * 320, "linear16") == pytest.approx(32_767, abs=128)
    assert mean_magnitude(b"", "mulaw") == 0
