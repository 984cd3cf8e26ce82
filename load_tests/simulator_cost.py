"""What the stand-ins for STT, LLM and TTS cost per call-second: `python -m load_tests.simulator_cost --calls 40`.

Fake calls do what a pipeline does with them, no more: a Flux stream of 20 ms frames (or joined ones), a streamed
completion per end of turn, a synthesis context per sentence. Prints the CPU of the simulators' process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import picows
import psutil
import uvloop

from serve_app.simulators.speech import speak
from serve_app.simulators.ticker import Ticker

AIM_MS = 1.5
FRAME = 640
CYCLE_S = 8.0
"""A call's rhythm: one turn of the callee, one reply."""
TEXT = "And where can I park my car?"
REPLY = (
    "Our parking is free behind the building, and the entrance is on the left. "
    "If the lot is full there is a garage across the street, next to the public library."
)
SPEECH = {"model_id": "sonic-3", "voice": {"id": "v"}, "language": "en", "max_buffer_delay_ms": 0}
FORMAT = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 16000}


class FakeCall(picows.WSListener):
    """One call's three providers."""

    def __init__(self, url: str, session: aiohttp.ClientSession, frames: list[bytes], offset: int, join: int) -> None:
        self._url, self._session, self._frames, self._join = url, session, frames, join
        self._tick = offset
        self._waiting = b""
        self._transport: picows.WSTransport | None = None
        self._replies: set[asyncio.Task[None]] = set()
        self.turns = self.audio_chunks = 0

    async def open(self) -> None:
        address = self._url.replace("http", "ws", 1)
        await picows.ws_connect(
            lambda: self,
            f"{address}/v2/listen?model=flux-general-en&encoding=linear16&sample_rate=16000",
            extra_headers={"Authorization": "Token k"},
        )
        self._voice = await self._session.ws_connect(f"{self._url}/tts/websocket?api_key=k", max_msg_size=0)
        self._reading = asyncio.create_task(self._read_voice())
        Ticker.of_running_loop().add(self)

    async def close(self) -> None:
        Ticker.of_running_loop().remove(self)
        if self._transport is not None:
            self._transport.disconnect(graceful=False)
        self._reading.cancel()
        await self._voice.close()

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        if '"event": "EndOfTurn"' in frame.get_payload_as_utf8_text():
            self.turns += 1
            task = asyncio.create_task(self._reply())
            self._replies.add(task)
            task.add_done_callback(self._replies.discard)

    def on_tick(self, late_ms: float) -> None:
        self._tick += 1
        self._waiting += self._frames[self._tick % len(self._frames)]
        if len(self._waiting) >= FRAME * self._join and self._transport is not None:
            self._transport.send(picows.WSMsgType.BINARY, self._waiting)
            self._waiting = b""

    async def _reply(self) -> None:
        body = {"model": "openai/gpt-oss-20b", "include_reasoning": False, "stream": True}
        messages = [{"role": "system", "content": "You are Ava."}, {"role": "user", "content": TEXT}]
        url, headers = f"{self._url}/openai/v1/chat/completions", {"Authorization": "Bearer k"}
        async with self._session.post(url, json={**body, "messages": messages}, headers=headers) as answer:
            await answer.read()
        sentences = re.split(r"(?<=[.!?])\s+", REPLY)
        for index, sentence in enumerate(sentences):
            more = index + 1 < len(sentences)
            order = {"context_id": f"{id(self)}-{self.turns}", "transcript": sentence, "continue": more}
            await self._voice.send_json({**SPEECH, **order, "output_format": FORMAT, "add_timestamps": True})

    async def _read_voice(self) -> None:
        async for message in self._voice:
            self.audio_chunks += '"type": "chunk"' in message.data[:20]


@contextlib.contextmanager
def simulators() -> Iterator[tuple[str, int]]:
    """(URL, pid) of a process of stand-ins under the load profile."""
    document = {"profile": "load", "stt_default_script": [TEXT], "llm_default_reply": REPLY}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "simulators.json"
        config.write_text(json.dumps(document), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "serve_app.simulators", "--config", str(config)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], process.pid
        finally:
            process.terminate()
            process.wait(10)


async def measure(url: str, pid: int, *, calls: int, seconds: float, join: int) -> tuple[float, dict[str, Any]]:
    """(CPU milliseconds per call-second, what happened meanwhile)."""
    pcm = speak(TEXT).pcm.tobytes()
    stream = pcm + bytes(round(CYCLE_S * 50) * FRAME - len(pcm))
    frames = [stream[offset : offset + FRAME] for offset in range(0, len(stream), FRAME)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        fakes = [FakeCall(url, session, frames, len(frames) * n // calls, join) for n in range(calls)]
        await asyncio.gather(*(fake.open() for fake in fakes))
        await asyncio.sleep(2)
        process = psutil.Process(pid)
        before, start, turns = sum(process.cpu_times()[:2]), time.monotonic(), sum(fake.turns for fake in fakes)
        await asyncio.sleep(seconds)
        cpu_s, wall_s = sum(process.cpu_times()[:2]) - before, time.monotonic() - start
        seen = {
            "turns": sum(fake.turns for fake in fakes) - turns,
            "turns_due": round(calls * wall_s / CYCLE_S),
            "audio_chunks": sum(fake.audio_chunks for fake in fakes),
        }
        await asyncio.gather(*(fake.close() for fake in fakes))
    return cpu_s * 1000 / wall_s / calls, seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=CYCLE_S)
    parser.add_argument("--join", type=int, default=1, help="frames per message to the transcriber")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = []
    for _ in range(options.rounds):
        with simulators() as (url, pid):
            cost, seen = uvloop.run(measure(url, pid, calls=options.calls, seconds=options.seconds, join=options.join))
        figures.append(cost)
        print(f"{cost:.2f} ms per call-second  {seen}")
    median = sorted(figures)[len(figures) // 2]
    verdict = "PASS" if median <= AIM_MS else "MISS"
    spread = f"{min(figures):.2f} - {max(figures):.2f}"
    print(f"stand-ins, {options.calls} calls: aim <= {AIM_MS} ms, {median:.2f} ms ({spread}) {verdict}")


if __name__ == "__main__":
    main()
