"""How loud a frame is, near enough to decide on: tests that cost a microsecond, for the media path."""

from __future__ import annotations

from serve_app.audio.g711 import mulaw_decode

QUIET = 256
"""Peak on the 16-bit scale (-42 dBFS) below which a frame counts as quiet: line noise lies under it, speech over it."""

# The high byte of a quiet little-endian sample: 0 to 255, and -256 to -1.
_QUIET_HIGH_BYTES = b"\x00\xff"
_MULAW = bytes(range(256))
_QUIET_MULAW = bytes(
    code
    for code, sample in zip(_MULAW, memoryview(mulaw_decode(_MULAW)).cast("h"), strict=True)
    if -QUIET <= sample < QUIET
)
# How many whole multiples of 256 a sample's magnitude holds, by its high byte, and by its mu-law code.
_MAGNITUDE = bytes(high if high < 128 else 255 - high for high in range(256))
_MULAW_MAGNITUDE = bytes(min(abs(sample), 32767) >> 8 for sample in memoryview(mulaw_decode(_MULAW)).cast("h"))
_STEP = 4
"""Every fourth sample: at 16 kHz that sees everything below 2 kHz, where the voice's energy lies."""


def may_sound(audio: bytes, encoding: str) -> bool:
    """Whether any of the samples looked at is not quiet. `encoding`: linear16 (little-endian) or mulaw."""
    if encoding == "mulaw":
        return bool(audio[::_STEP].translate(None, _QUIET_MULAW))
    return bool(audio[1 :: 2 * _STEP].translate(None, _QUIET_HIGH_BYTES))


def mean_magnitude(audio: bytes, encoding: str) -> float:
    """Mean magnitude on the 16-bit scale, to about 128: only high bytes are looked at. 0 for no audio."""
    if encoding == "mulaw":
        magnitudes = audio[::_STEP].translate(_MULAW_MAGNITUDE)
    else:
        magnitudes = audio[1 :: 2 * _STEP].translate(_MAGNITUDE)
    # A magnitude lies anywhere within its step of 256: half a step on average.
    return (sum(magnitudes) / len(magnitudes) + 0.5) * 256 if magnitudes else 0.0
