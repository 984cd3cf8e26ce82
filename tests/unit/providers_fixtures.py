"""The stand-ins in process on a free port, and settings that point the unmodified SDK clients at them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from serve_app.provider_settings import (
    CartesiaSettings,
    DeepgramSettings,
    GroqSettings,
    OpenAISettings,
    ProviderSettings,
)
from serve_app.providers.base import AudioFormat
from serve_app.providers.stt_deepgram import DeepgramTranscriber
from serve_app.settings import Settings
from serve_app.simulators.app import make_app
from serve_app.simulators.config import SimulatorConfig
from serve_app.simulators.faults import FAULTS, Fault
from serve_app.simulators.latency import Constant, LatencyConfig
from serve_app.simulators.scripts import SCRIPTS, ScriptBook
from serve_app.simulators.speech import speak

LINEAR16 = AudioFormat("linear16", 16000)
MULAW8 = AudioFormat("mulaw", 8000)

QUICK = LatencyConfig(
    stt_connect=Constant(ms=0),
    stt_start_of_turn=Constant(ms=150),
    stt_end_of_turn=Constant(ms=400),
    stt_processing=Constant(ms=0),
    llm_first_token=Constant(ms=5),
    llm_inter_token=Constant(ms=0),
    tts_connect=Constant(ms=0),
    tts_first_audio=Constant(ms=5),
)


@dataclass
class Bed:
    """A running application of stand-ins."""

    app: web.Application
    url: str

    @property
    def websocket_url(self) -> str:
        return self.url.replace("http", "ws", 1)

    @property
    def scripts(self) -> ScriptBook:
        return self.app[SCRIPTS]

    def fault(self, provider: str, kind: str, **fields: Any) -> None:
        self.app[FAULTS].add(Fault(provider=provider, kind=kind, **fields))  # type: ignore[arg-type]

    def deepgram(self, **fields: Any) -> DeepgramSettings:
        return DeepgramSettings(base_url=self.url, websocket_url=self.websocket_url, **fields)

    def groq(self, **fields: Any) -> GroqSettings:
        return GroqSettings(base_url=self.url, **fields)

    def openai(self, **fields: Any) -> OpenAISettings:
        return OpenAISettings(base_url=f"{self.url}/v1", **fields)

    def cartesia(self, **fields: Any) -> CartesiaSettings:
        return CartesiaSettings(base_url=self.url, websocket_url=self.websocket_url, **fields)

    def settings(self, **providers: Any) -> Settings:
        sections = {
            "deepgram": self.deepgram(),
            "groq": self.groq(),
            "openai": self.openai(),
            "cartesia": self.cartesia(),
            **providers,
        }
        return Settings(providers=ProviderSettings(**sections))


@asynccontextmanager
async def running(config: SimulatorConfig | None = None) -> AsyncIterator[Bed]:
    """The stand-ins without delays, unless `config` says otherwise."""
    app = make_app(config or SimulatorConfig(latency=QUICK, recognise=False))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield Bed(app, f"http://{host}:{port}")
    finally:
        await runner.cleanup()


@pytest.fixture(name="bed")
async def fixture_bed() -> AsyncIterator[Bed]:
    async with running() as running_bed:
        yield running_bed


@pytest.fixture(name="stt")
async def fixture_stt(bed: Bed) -> AsyncIterator[DeepgramTranscriber]:
    transcriber = DeepgramTranscriber(bed.deepgram(connect_timeout_s=1), "k")
    yield transcriber
    await transcriber.aclose()


def spoken(text: str, *, rate_hz: int = 16000, silence_s: float = 1.5) -> bytes:
    """Real speech with silence behind it, linear16."""
    pcm = speak(text, rate_hz=rate_hz).pcm
    return np.concatenate([pcm, np.zeros(int(rate_hz * silence_s), np.int16)]).tobytes()


async def feed(send: Callable[[bytes], None], audio: bytes, frame_bytes: int = 640) -> None:
    """Send frames, ten at a time: Flux time is audio time, so tests need not wait for the speech to pass."""
    for index, offset in enumerate(range(0, len(audio), frame_bytes)):
        send(audio[offset : offset + frame_bytes])
        if index % 10 == 9:
            await asyncio.sleep(0.005)


async def eventually(check: Callable[[], bool], timeout_s: float = 30) -> None:
    """Wait until `check` holds."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError("it did not come true in time")
        await asyncio.sleep(0.01)
