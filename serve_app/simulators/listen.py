"""Free recognition of speech that nobody scripted: pocketsphinx, US English only, and approximate at best."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

MODEL_RATE_HZ = 16000
UNINTELLIGIBLE = "[unintelligible]"


@dataclass(frozen=True, slots=True)
class Recognition:
    """`text` is empty when nothing was readable. Recognised text is always approximate."""

    text: str
    approximate: bool = True


@functools.cache
def _worker() -> ThreadPoolExecutor:
    # One thread: the decoder keeps state, and recognition must not take the machine from the media paths.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="pocketsphinx")


@functools.cache
def _decoder() -> Any:
    # Imported here: the model takes a third of a second and 60 MB, and scripted runs never need it.
    from pocketsphinx import Decoder

    return Decoder(samprate=MODEL_RATE_HZ, loglevel="FATAL")


def _recognise(pcm: npt.NDArray[np.int16], rate_hz: int) -> Recognition:
    samples = pcm if rate_hz == MODEL_RATE_HZ else soxr.resample(pcm, rate_hz, MODEL_RATE_HZ).astype(np.int16)
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return Recognition(hypothesis.hypstr.strip() if hypothesis is not None else "")


async def recognise(pcm: npt.NDArray[np.int16], rate_hz: int) -> Recognition:
    """Recognise one turn's mono int16 samples in the worker thread."""
    return await asyncio.get_running_loop().run_in_executor(_worker(), _recognise, pcm, rate_hz)
