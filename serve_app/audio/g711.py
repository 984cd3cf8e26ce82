"""G.711 companding by table: 8-bit mu-law and A-law <-> signed 16-bit little-endian linear.

mu-law: bias 132 and clip 32635 on the 16-bit scale. A-law: 13-bit magnitude, even bits inverted (ITU-T G.711).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MULAW_SILENCE = 0xFF
ALAW_SILENCE = 0xD5

_MULAW_BIAS = 132
_MULAW_CLIP = 32635
# Upper ends of the eight A-law segments, in units of the 13-bit magnitude.
_ALAW_SEGMENT_ENDS = np.array([0x1F, 0x3F, 0x7F, 0xFF, 0x1FF, 0x3FF, 0x7FF, 0xFFF])


def _mulaw_encode_table() -> NDArray[np.uint8]:
    linear = np.arange(-32768, 32768, dtype=np.int32)
    sign = np.where(linear < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(linear), _MULAW_CLIP) + _MULAW_BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    table: NDArray[np.uint8] = (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8)
    return table


def _mulaw_decode_table() -> NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    exponent = (code >> 4) & 0x07
    magnitude = ((((code & 0x0F) << 3) + _MULAW_BIAS) << exponent) - _MULAW_BIAS
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_encode_table() -> NDArray[np.uint8]:
    linear = np.arange(-32768, 32768, dtype=np.int32) >> 3
    mask = np.where(linear >= 0, 0xD5, 0x55)
    magnitude = np.where(linear >= 0, linear, ~linear)
    segment = np.searchsorted(_ALAW_SEGMENT_ENDS, magnitude)
    mantissa = (magnitude >> np.maximum(segment, 1)) & 0x0F
    return (((segment << 4) | mantissa) ^ mask).astype(np.uint8)


def _alaw_decode_table() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code >> 4) & 0x07
    step = (code & 0x0F) << 4
    magnitude = np.where(segment == 0, step + 8, (step + 0x108) << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


# Encode tables are indexed by the sample's bit pattern as uint16, so that no offset is added per frame.
_MULAW_ENCODE: NDArray[np.uint8] = np.roll(_mulaw_encode_table(), 32768)
_ALAW_ENCODE: NDArray[np.uint8] = np.roll(_alaw_encode_table(), 32768)
_MULAW_DECODE = _mulaw_decode_table()
_ALAW_DECODE = _alaw_decode_table()


def mulaw_encode(pcm: bytes) -> bytes:
    """Linear16 (2n bytes) -> mu-law (n bytes). Raises ValueError for an odd number of bytes."""
    encoded: bytes = _MULAW_ENCODE[np.frombuffer(pcm, dtype="<u2")].tobytes()
    return encoded


def mulaw_decode(encoded: bytes) -> bytes:
    """mu-law (n bytes) -> linear16 (2n bytes)."""
    return _MULAW_DECODE[np.frombuffer(encoded, dtype=np.uint8)].astype("<i2", copy=False).tobytes()


def alaw_encode(pcm: bytes) -> bytes:
    """Linear16 (2n bytes) -> A-law (n bytes). Raises ValueError for an odd number of bytes."""
    encoded: bytes = _ALAW_ENCODE[np.frombuffer(pcm, dtype="<u2")].tobytes()
    return encoded


def alaw_decode(encoded: bytes) -> bytes:
    """A-law (n bytes) -> linear16 (2n bytes)."""
    return _ALAW_DECODE[np.frombuffer(encoded, dtype=np.uint8)].astype("<i2", copy=False).tobytes()
