"""Free recognition of speech that nobody scripted: pocketsphinx, US English only, and approximate at best.

It runs in a process of its own (`python -m serve_app.simulators.listen`): pocketsphinx keeps the interpreter lock for
hundreds of milliseconds (measured), which would stop the media of every other call. The process ends with its stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

MODEL_RATE_HZ = 16000
UNINTELLIGIBLE = "[unintelligible]"

_HEADER = struct.Struct("<II")  # rate in Hz, bytes of linear16 that follow
_START_TIMEOUT_S = 30.0
_RECOGNISE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Recognition:
    """`text` is empty when nothing was readable. Recognised text is always approximate."""

    text: str
    approximate: bool = True


class Recogniser:
    """The recognition process, started when it is first needed. One request at a time."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def recognise(self, pcm: npt.NDArray[np.int16], rate_hz: int) -> Recognition:
        """The text of mono int16 samples; empty when the process fails, for a test bed goes on without it."""
        async with self._lock:
            try:
                async with asyncio.timeout(_RECOGNISE_TIMEOUT_S):
                    return await self._ask(pcm, rate_hz)
            except (OSError, TimeoutError, asyncio.IncompleteReadError, json.JSONDecodeError):
                await self._stop()
                return Recognition("")

    async def _ask(self, pcm: npt.NDArray[np.int16], rate_hz: int) -> Recognition:
        process = self._process
        if process is None or process.returncode is not None:
            async with asyncio.timeout(_START_TIMEOUT_S):
                process = self._process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", __name__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
                )
        if process.stdin is None or process.stdout is None:
            raise BrokenPipeError("the recognition process has no pipes")
        audio = pcm.astype("<i2").tobytes()
        process.stdin.write(_HEADER.pack(rate_hz, len(audio)) + audio)
        await process.stdin.drain()
        return Recognition(json.loads(await process.stdout.readuntil(b"\n"))["text"])

    async def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def aclose(self) -> None:
        await self._stop()


def _serve() -> None:
    """The process: audio on stdin, one JSON line per request on stdout, until stdin ends."""
    from pocketsphinx import Decoder

    # The media paths of the machine come first.
    os.nice(5)
    decoder = Decoder(samprate=MODEL_RATE_HZ, loglevel="FATAL")
    while len(header := sys.stdin.buffer.read(_HEADER.size)) == _HEADER.size:
        rate_hz, size = _HEADER.unpack(header)
        samples = np.frombuffer(sys.stdin.buffer.read(size), dtype="<i2")
        if rate_hz != MODEL_RATE_HZ:
            samples = soxr.resample(samples, rate_hz, MODEL_RATE_HZ).astype(np.int16)
        decoder.start_utt()
        decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        text = hypothesis.hypstr.strip() if hypothesis is not None else ""
        sys.stdout.write(json.dumps({"text": text}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
