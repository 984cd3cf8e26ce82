"""Real speech for the stand-ins: espeak-ng through ctypes.

espeak-ng is GPL and keeps one global state, so only the simulators' own process loads it, in one thread.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

Pcm = npt.NDArray[np.int16]

# Callee and agent sound different in every language.
VOICES = {
    "callee-en": "en-us+m3",
    "agent-en": "en-us+f3",
    "callee-es": "es+m3",
    "agent-es": "es+f3",
    "callee-fr": "fr+m3",
    "agent-fr": "fr+f3",
}

_SYNCHRONOUS = 2
_CHARACTER_POSITION = 1
_UTF8 = 1
_EVENT_END_OF_LIST, _EVENT_WORD = 0, 1
_MAX_CACHED = 256


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """One word of the text, with seconds from the first sample."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Speech:
    """`pcm`: mono int16, shape (samples,), read-only."""

    pcm: Pcm
    rate_hz: int
    words: tuple[SpokenWord, ...]

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / self.rate_hz


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class _Engine:
    """The library, initialised once. Not thread-safe: used by the one worker thread only."""

    def __init__(self) -> None:
        # Imported here: the product never loads the GPL library.
        import espeakng_loader

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), 0)
        if rate <= 0:
            raise RuntimeError("espeak-ng did not start; is the `espeakng-loader` wheel complete?")
        self.rate_hz: int = rate
        self._audio = bytearray()
        self._starts: list[tuple[int, int]] = []
        # Kept as an attribute: the library calls it, and ctypes would free it.
        self._callback = _SynthCallback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._audio += ctypes.string_at(samples, count * 2)
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            if events[index].type == _EVENT_WORD:
                self._starts.append((events[index].text_position - 1, events[index].audio_position_ms))
            index += 1
        return 0

    def synthesise(self, text: str, voice: str) -> tuple[Pcm, list[tuple[int, int]]]:
        """Samples at the engine's rate, and (character position, milliseconds) of each word that it spoke."""
        name = VOICES.get(voice, voice)
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ValueError(f"no voice {voice!r}; known: {', '.join(VOICES)}, or a name of espeak-ng such as en-us+f3")
        self._audio.clear()
        self._starts.clear()
        data = text.encode("utf-8") + b"\0"
        if self._library.espeak_Synth(data, len(data), 0, _CHARACTER_POSITION, 0, _UTF8, None, None) != 0:
            raise RuntimeError("espeak-ng could not speak the text")
        return np.frombuffer(bytes(self._audio), dtype=np.int16), list(self._starts)


@functools.cache
def _engine() -> _Engine:
    return _Engine()


@functools.lru_cache(maxsize=_MAX_CACHED)
def _speak(text: str, voice: str, rate_hz: int) -> Speech:
    engine = _engine()
    samples, starts = engine.synthesise(text, voice)
    if rate_hz != engine.rate_hz and len(samples):
        resampled = soxr.resample(samples, engine.rate_hz, rate_hz)
        samples = np.ascontiguousarray(resampled, dtype=np.int16)
    samples.flags.writeable = False
    return Speech(pcm=samples, rate_hz=rate_hz, words=_words(text, starts, len(samples) / rate_hz))


def _words(text: str, starts: list[tuple[int, int]], duration_s: float) -> tuple[SpokenWord, ...]:
    """One entry per word of the text: espeak-ng itself splits at apostrophes and joins some words."""
    spans = [(m.start(), m.end(), m.group()) for m in re.finditer(r"\S+", text)]
    if not spans:
        return ()
    begins: list[float | None] = []
    for first, end, _ in spans:
        hit = next((ms for position, ms in starts if first <= position < end), None)
        begins.append(None if hit is None else min(hit / 1000, duration_s))
    known = [(i, b) for i, b in enumerate(begins) if b is not None]
    positions = [i for i, _ in known] + [len(spans)]
    times = [b for _, b in known] + [duration_s]
    if not known or known[0][0] != 0:
        positions, times = [0, *positions], [0.0, *times]
    edges = np.maximum.accumulate(np.interp(range(len(spans) + 1), positions, times))
    return tuple(SpokenWord(word, float(edges[i]), float(edges[i + 1])) for i, (_, _, word) in enumerate(spans))


@functools.cache
def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="espeak")


def speak(text: str, *, voice: str = "callee-en", rate_hz: int = 16000) -> Speech:
    """Speak `text`; blocks (a few ms per spoken second). `voice`: a key of VOICES or an espeak-ng name.

    Raises ValueError for an unknown voice.
    """
    return _worker().submit(_speak, text, voice, rate_hz).result()


async def speak_async(text: str, *, voice: str = "callee-en", rate_hz: int = 16000) -> Speech:
    """`speak` without blocking the event loop."""
    return await asyncio.get_running_loop().run_in_executor(_worker(), _speak, text, voice, rate_hz)
