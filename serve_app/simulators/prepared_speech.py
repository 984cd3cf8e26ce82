"""Speech of the Cartesia stand-in: spoken, encoded and written as JSON once per text."""

from __future__ import annotations

import base64
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from serve_app.audio import g711
from serve_app.simulators.speech import Speech, speak_async

CHUNK_MS = 100
_MAX_PREPARED = 256


class OutputFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    container: Literal["raw", "wav"] = "raw"
    encoding: Literal["pcm_s16le", "pcm_f32le", "pcm_mulaw", "pcm_alaw"]
    sample_rate: Literal[8000, 16000, 22050, 24000, 44100, 48000]

    def encode(self, pcm: np.ndarray[Any, np.dtype[np.int16]]) -> bytes:
        linear = pcm.astype("<i2").tobytes()
        if self.encoding == "pcm_f32le":
            return (pcm.astype("<f4") / np.float32(32768)).tobytes()
        if self.encoding == "pcm_mulaw":
            return g711.mulaw_encode(linear)
        return g711.alaw_encode(linear) if self.encoding == "pcm_alaw" else linear


@dataclass(frozen=True, slots=True)
class PreparedSpeech:
    """A transcript spoken and encoded once. `chunks_json`: each chunk as base64 inside quotes, as JSON carries it."""

    speech: Speech
    chunks: tuple[bytes, ...]
    chunks_json: tuple[str, ...]

    @classmethod
    def of(cls, speech: Speech, output_format: OutputFormat, *, odd: bool = False) -> PreparedSpeech:
        encoded = output_format.encode(speech.pcm)
        size = max(1, len(encoded) * CHUNK_MS // max(1, int(speech.duration_s * 1000)))
        size = size | 1 if odd else (size + 3) // 4 * 4
        chunks = tuple(encoded[offset : offset + size] for offset in range(0, len(encoded), size))
        return cls(speech, chunks, tuple(f'"{base64.b64encode(chunk).decode()}"' for chunk in chunks))


class SpeechCache:
    """What was spoken lately, so that a text is synthesised, encoded and written as JSON once."""

    def __init__(self) -> None:
        self._prepared: OrderedDict[tuple[str, ...], PreparedSpeech] = OrderedDict()

    async def get(
        self, text: str, output_format: OutputFormat, *, language: str = "en", odd: bool = False
    ) -> PreparedSpeech:
        """`text`, spoken by the agent's voice of the language (of English where it has none)."""
        language = language if language in ("en", "es", "fr") else "en"
        key = (text, language, output_format.encoding, str(output_format.sample_rate), str(odd))
        prepared = self._prepared.get(key)
        if prepared is None:
            speech = await speak_async(text, voice=f"agent-{language}", rate_hz=output_format.sample_rate)
            prepared = self._prepared[key] = PreparedSpeech.of(speech, output_format, odd=odd)
            while len(self._prepared) > _MAX_PREPARED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return prepared
