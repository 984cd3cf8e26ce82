"""Speech that a callee plays, and what a callee heard."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile

from tests.integration.harness import Running

LOUD = 200
"""A frame with a sample beyond it sounds."""


def sound_file(samples: np.ndarray, rate_hz: int) -> str:
    """A WAV file of int16 samples (n,) or (n, channels), base64."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, subtype="PCM_16", format="WAV")
    return base64.b64encode(file.getvalue()).decode()


def heard(platform: Running, call_id: str) -> np.ndarray:
    """What the callee heard from its first media frame on, silence included: int16 (n,)."""
    sound = platform.sim.get(f"/sim/calls/{call_id}/heard.wav").raise_for_status().content
    samples, _ = soundfile.read(io.BytesIO(sound), dtype="int16")
    return np.asarray(samples)


def sounding(samples: np.ndarray) -> np.ndarray:
    """The samples without those that are zero: the same speech is the same here, whatever the pauses in it."""
    return samples[samples != 0]


def contains(track: np.ndarray, piece: np.ndarray) -> bool:
    """Whether `piece` stands in `track` sample for sample."""
    return piece.astype("<i2").tobytes() in track.astype("<i2").tobytes()


def unanswered(samples: np.ndarray, utterances: list[dict[str, Any]], frame: int) -> list[str]:
    """What a callee said without hearing a sound before it spoke again, or before the call ended.

    `samples`: what it heard; `utterances`: what it said, by `first_frame` and `bytes`; `frame`: samples of 20 ms.
    """
    loud = np.abs(samples[: len(samples) // frame * frame].astype(int)).reshape(-1, frame).max(axis=1) > LOUD
    ends = [said["first_frame"] + said["bytes"] // (2 * frame) for said in utterances]
    begins = [said["first_frame"] for said in utterances[1:]] + [len(loud)]
    return [
        said["text"] for said, end, begin in zip(utterances, ends, begins, strict=True) if not loud[end:begin].any()
    ]
