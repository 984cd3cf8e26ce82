"""What a call on the wire needs around it: simulators in a process of their own, and a server for its media socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from serve_app.errors import UnavailableError
from serve_app.scenarios.document import Latencies, Scenario
from serve_app.scenarios.replies import UNSCRIPTED, replies_of, said_in
from serve_app.telephony.sockets import CallerSocket, Receive, Scope, Send, caller_socket

RATE_HZ = 16000
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0
_REQUEST_TIMEOUT_S = 30.0
_QUEUE_MESSAGES = 4096


class Simulators:
    """The providers' stand-ins for one scenario."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url
        self._http = http

    @classmethod
    @asynccontextmanager
    async def started(cls, scenario: Scenario) -> AsyncIterator[Simulators]:
        """On a free port. Raises UnavailableError."""
        with tempfile.TemporaryDirectory(prefix="parley-scenario-") as folder:
            config = Path(folder) / "simulators.json"
            config.write_text(json.dumps(_simulator_config(scenario)), encoding="utf-8")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "serve_app.simulators", "--port", "0", "--config", str(config),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                async with httpx.AsyncClient(timeout=_REQUEST_TIMEOUT_S) as http:
                    yield cls(await _address(process), http)
            finally:
                await _stop(process)

    async def announce(self, call_id: str, segments: Sequence[str]) -> None:
        """The next utterance of the call says this: text is told, timing is heard."""
        answer = await self._http.post(f"{self.url}/sim/calls/{call_id}/script", json={"texts": list(segments)})
        answer.raise_for_status()

    async def speak(self, texts: Sequence[str], *, language: str) -> dict[str, bytes]:
        """The sound of each text, 16-bit mono at `RATE_HZ`."""
        sounds: dict[str, bytes] = {}
        for text in texts:
            body = {
                "model_id": "sonic-3",
                "transcript": text,
                "voice": {"mode": "id", "id": "callee"},
                "language": language,
                "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": RATE_HZ},
            }
            headers = {"X-API-Key": "simulated", "Cartesia-Version": "2025-04-16"}
            answer = await self._http.post(f"{self.url}/tts/bytes", json=body, headers=headers)
            answer.raise_for_status()
            sounds[text] = answer.content
        return sounds


def _simulator_config(scenario: Scenario) -> dict[str, Any]:
    script = {said_in(step): replies_of(step)[0].text for step in scenario.steps if replies_of(step)}
    return {
        "recognise": False,
        "latency": _delays(scenario.latencies),
        "llm_script": script,
        "llm_default_reply": UNSCRIPTED,
        "tts_prepared": [scenario.agent.opening],
    }


def _delays(latencies: Latencies) -> dict[str, Any]:
    constants = {
        "stt_start_of_turn": latencies.stt_start,
        "stt_end_of_turn": latencies.stt_end,
        "stt_processing": 0,
        "llm_first_token": latencies.first_token,
        "llm_inter_token": latencies.token,
        "tts_first_audio": latencies.first_audio,
    }
    return {name: {"kind": "constant", "ms": ms} for name, ms in constants.items()}


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
    except TimeoutError as error:
        raise UnavailableError(f"the simulators were not ready after {START_TIMEOUT_S:g} s") from error
    if not line:
        raise UnavailableError(
            "the simulators did not start; they need the packages of the dependency group 'simulators' "
            "(uv sync --group simulators)"
        )
    return str(json.loads(line)["url"])


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


class _Server(uvicorn.Server):
    """Leaves the process' signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


class MediaServer:
    """A WebSocket server on loopback whose every socket is given to one function."""

    def __init__(self, websocket_url: str) -> None:
        self.websocket_url = websocket_url

    @classmethod
    @asynccontextmanager
    async def started(cls, answer: Callable[[CallerSocket], Awaitable[None]]) -> AsyncIterator[MediaServer]:
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            _application(answer),
            log_config=None,
            lifespan="off",
            access_log=False,
            ws_per_message_deflate=False,
            ws_ping_interval=None,  # audio flows all the time
            timeout_graceful_shutdown=5,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="media server")
        try:
            await _until_started(server, serving)
            yield cls(f"ws://127.0.0.1:{listening.getsockname()[1]}/media")
        finally:
            server.should_exit = True
            await serving


async def _until_started(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    async with asyncio.timeout(START_TIMEOUT_S):
        while not server.started:  # uvicorn tells no event
            if serving.done():
                raise UnavailableError("the media server did not start")
            await asyncio.sleep(0.01)


def _application(
    answer: Callable[[CallerSocket], Awaitable[None]],
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await answer(caller_socket(scope, receive, send, limit=_QUEUE_MESSAGES))

    return app
