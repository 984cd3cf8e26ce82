"""Sound files of any rate, width and channel count, through libsndfile."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from serve_app.audio.resample import resample_whole

FileFormat = Literal["flac", "wav"]
_SUBTYPE = "PCM_16"


class SoundFileError(ValueError):
    """The bytes are not a sound file that libsndfile reads."""


def read_sound(source: Path | bytes) -> tuple[NDArray[np.int16], int]:
    """Samples as int16, shape (n, channels), and the sample rate in Hz. Raises SoundFileError, FileNotFoundError."""
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"sound file {source} does not exist")
    handle = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    try:
        samples, rate = soundfile.read(handle, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        name = source if isinstance(source, Path) else "the given bytes"
        raise SoundFileError(f"{name}: not a readable sound file: {error}") from error
    return samples, int(rate)


def read_mono(source: Path | bytes, rate_hz: int) -> NDArray[np.int16]:
    """One channel (the mean of all) at `rate_hz`, shape (n,). Raises as `read_sound`."""
    samples, rate = read_sound(source)
    mono = np.rint(samples.mean(axis=1)).astype(np.int16) if samples.shape[1] > 1 else samples[:, 0]
    return resample_whole(mono, rate, rate_hz)


def encode_sound(samples: NDArray[np.int16], rate_hz: int, file_format: FileFormat) -> bytes:
    """int16 samples, shape (n,) or (n, channels), as the bytes of a 16-bit FLAC or WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=file_format.upper(), subtype=_SUBTYPE)
    return buffer.getvalue()


def write_sound(path: Path, samples: NDArray[np.int16], rate_hz: int) -> None:
    """Write a 16-bit file; the format follows the suffix (.wav, .flac)."""
    soundfile.write(str(path), samples, rate_hz, subtype=_SUBTYPE)
