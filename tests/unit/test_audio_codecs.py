"""G.711, resampling, framing: exact where the standard is exact, bounded where a filter is involved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.audio import g711
from serve_app.audio.framing import Framer
from serve_app.audio.resample import StreamResampler, resample_whole

ALL_CODES = bytes(range(256))
ALL_SAMPLES = np.arange(-32768, 32768, dtype="<i2")


def reference_mulaw(sample: int) -> int:
    """The classic bit-by-bit encoder: bias 132, clip 32635."""
    sign = 0x80 if sample < 0 else 0
    magnitude = min(abs(sample), 32635) + 132
    exponent, mask = 7, 0x4000
    while exponent > 0 and not magnitude & mask:
        exponent, mask = exponent - 1, mask >> 1
    return ~(sign | exponent << 4 | magnitude >> (exponent + 3) & 0x0F) & 0xFF


def reference_alaw(sample: int) -> int:
    value = sample >> 3
    mask = 0xD5
    if value < 0:
        mask, value = 0x55, -value - 1
    segment = next(i for i, end in enumerate((0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF)) if value <= end)
    mantissa = value >> 1 & 0x0F if segment < 2 else value >> segment & 0x0F
    return (segment << 4 | mantissa) ^ mask


def test_mulaw_is_bit_exact_for_every_sample() -> None:
    assert list(g711.mulaw_encode(ALL_SAMPLES.tobytes())) == [reference_mulaw(int(s)) for s in ALL_SAMPLES]


def test_alaw_is_bit_exact_for_every_sample() -> None:
    assert list(g711.alaw_encode(ALL_SAMPLES.tobytes())) == [reference_alaw(int(s)) for s in ALL_SAMPLES]


def test_known_code_points_of_the_standard() -> None:
    mulaw = np.frombuffer(g711.mulaw_decode(ALL_CODES), dtype="<i2")
    alaw = np.frombuffer(g711.alaw_decode(ALL_CODES), dtype="<i2")
    assert (mulaw[0x00], mulaw[0x80], mulaw[0xFF], mulaw[0x7F]) == (-32124, 32124, 0, 0)
    assert (alaw[0xD5], alaw[0x55], alaw[0xAA], alaw[0x2A]) == (8, -8, 32256, -32256)


def test_every_code_survives_decode_and_encode() -> None:
    assert g711.alaw_encode(g711.alaw_decode(ALL_CODES)) == ALL_CODES
    # mu-law has two zeros; both encode as positive zero.
    assert g711.mulaw_encode(g711.mulaw_decode(ALL_CODES)) == ALL_CODES.replace(b"\x7f", b"\xff")


@given(st.lists(st.binary(max_size=2000), max_size=12), st.sampled_from([(320, 0), (640, 0), (160, 0xFF)]))
def test_framer_keeps_every_byte_in_order(chunks: list[bytes], shape: tuple[int, int]) -> None:
    size, silence = shape
    framer = Framer(size, silence)
    frames = [frame for chunk in chunks for frame in framer.push(chunk)]
    waiting = framer.pending_bytes
    tail = framer.flush()
    everything = b"".join(chunks)
    assert all(len(frame) == size for frame in frames)
    assert b"".join(frames) == everything[: len(frames) * size]
    assert waiting == len(everything) - len(frames) * size < size
    if waiting:
        kept = waiting - (waiting % 2 if silence == 0 else 0)
        assert tail == everything[len(frames) * size :][:kept] + bytes([silence]) * (size - kept)
    assert framer.flush() is None


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20))
def test_streamed_resampling_does_not_depend_on_the_chunks(sizes: list[int]) -> None:
    tone = (12000 * np.sin(2 * np.pi * 440 * np.arange(sum(sizes)) / 16000)).astype("<i2")
    once, pieces = StreamResampler(16000, 8000), StreamResampler(16000, 8000)
    whole = once.process(tone.tobytes()) + once.flush()
    start, got = 0, b""
    for size in sizes:
        got += pieces.process(tone[start : start + size].tobytes())
        start += size
    got += pieces.flush()
    assert len(got) == len(whole)
    assert np.abs(np.frombuffer(got, "<i2").astype(int) - np.frombuffer(whole, "<i2")).max() <= 1


def test_resampling_clips_instead_of_wrapping() -> None:
    square = np.tile(np.repeat(np.array([32767, -32768], dtype="<i2"), 20), 50)
    for out in (
        resample_whole(square, 8000, 16000),
        np.frombuffer(StreamResampler(8000, 16000).process(square.tobytes()), "<i2"),
    ):
        steady = out[400:1200].astype(int)
        # Overshoot that wrapped would put -32768 next to 32767 inside a half wave.
        assert np.count_nonzero(np.abs(np.diff(steady)) > 60000) == 0
        assert steady.max() == 32767


@pytest.mark.parametrize(("source", "target"), [(44100, 16000), (8000, 16000), (24000, 16000), (48000, 8000)])
def test_resampled_length_is_the_same_time(source: int, target: int) -> None:
    seconds = 3
    stream = StreamResampler(source, target)
    pcm = np.zeros(source * seconds, dtype="<i2")
    assert abs(len(stream.process(pcm.tobytes()) + stream.flush()) // 2 - target * seconds) <= 1
    assert len(resample_whole(pcm, source, target)) == target * seconds


def test_equal_rates_pass_the_bytes_through() -> None:
    stream = StreamResampler(16000, 16000)
    assert stream.process(b"\x01\x02\x03\x04") == b"\x01\x02\x03\x04"
    assert stream.flush() == b""
