"""The Locust users against a small fake platform: one headless run in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter
from pathlib import Path

import jwt
import numpy as np
import pytest
from aiohttp import WSMsgType, web

from load_tests.swarm.numbers import NUMBERS, caller_number
from load_tests.swarm.stages import Stages, load_stages

ROOT = Path(__file__).resolve().parents[2]
SECRET = "s" * 32
TONE = (np.sin(np.arange(320) / 5) * 8000).astype("<i2").tobytes()


def test_the_stages_of_the_repository_hold_and_end() -> None:
    stages = load_stages(ROOT / "load_tests" / "stages.yaml")
    total_s = sum(stage.seconds for stage in stages.stages)
    assert stages.at(total_s) is None
    assert stages.at(total_s - 0.001) == (0, pytest.approx(1.0))


def test_ramps_are_even_and_jumps_have_their_rate() -> None:
    stages = Stages.model_validate(
        {
            "stages": [
                {"kind": "ramp", "users": 40, "seconds": 10},
                {"kind": "spike", "users": 60, "seconds": 5, "spawn_rate": 20},
                {"kind": "ramp", "users": 0, "seconds": 10},
            ]
        }
    )
    assert stages.at(0) == (0, 4.0) and stages.at(5) == (20, 4.0)
    assert stages.at(12, scale=2) == (120, 20.0)
    assert stages.at(20) == (30, 6.0) and stages.at(25) is None


def test_a_wrong_stage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "stages.yaml"
    file.write_text("stages: [{kind: jump, users: 1, seconds: 1}]")
    with pytest.raises(ValueError, match=r"(?s)stages\.yaml.*kind"):
        load_stages(file)


def test_callers_numbers_differ_and_are_never_assigned() -> None:
    numbers = [caller_number(index) for index in range(NUMBERS)]
    assert len(set(numbers)) == NUMBERS > 50_000
    assert all(len(number) == 12 and number[5:10] == "55501" for number in numbers)


class FakePlatform:
    """Answers calls, takes signed webhooks and refuses forged ones."""

    def __init__(self) -> None:
        self.events: Counter[int] = Counter()
        self.media = 0
        self.port = 0
        self.asked = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_get("/webhooks/vonage/answer", self.answer)
        app.router.add_post("/webhooks/vonage/event", self.event)
        app.router.add_get("/api/v1/calls", self.calls)
        app.router.add_get("/media", self.phone)
        return app

    async def health(self, _request: web.Request) -> web.Response:
        # The first session is there at the second question.
        self.asked += 1
        return web.json_response({"runtime": {}, "capacity": {"slots": min(self.asked - 1, 1), "used": 0}})

    async def calls(self, request: web.Request) -> web.Response:
        return web.json_response({"items": []}, status=200 if request.headers["Authorization"] == "Bearer k" else 401)

    async def answer(self, _request: web.Request) -> web.Response:
        endpoint = {
            "type": "websocket",
            "uri": f"ws://127.0.0.1:{self.port}/media",
            "content-type": "audio/l16;rate=16000",
        }
        return web.json_response([{"action": "connect", "endpoint": [endpoint]}])

    async def event(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            claims = jwt.decode(token, SECRET, algorithms=["HS256"])
            status = 200 if claims["payload_hash"] == hashlib.sha256(body).hexdigest() else 401
        except jwt.PyJWTError:
            status = 401
        self.events[status] += 1
        return web.Response(status=status)

    async def phone(self, request: web.Request) -> web.WebSocketResponse:
        """Greets, and hangs up after a second."""
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        self.media += 1
        frames = 0
        async for message in ws:
            if message.type is WSMsgType.BINARY:
                frames += 1
                if frames <= 20:
                    with contextlib.suppress(ConnectionError):
                        await ws.send_bytes(TONE)
                elif frames == 50:
                    break
        await ws.close()
        return ws


async def _end_after_some_calls(platform: FakePlatform, process: asyncio.subprocess.Process) -> None:
    while platform.media < 3 or platform.events[200] < 3 or not platform.events[401]:  # noqa: ASYNC110 - plain counts
        await asyncio.sleep(0.2)
    await asyncio.sleep(4)  # their ends reach the statistics
    process.terminate()


async def test_a_headless_run_against_a_fake_platform() -> None:
    platform = FakePlatform()
    runner = web.AppRunner(platform.app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    platform.port = runner.addresses[0][1]
    environment = {
        **os.environ,
        "VONAGE_API_KEY": "key",
        "VONAGE_APPLICATION_ID": "app",
        "VONAGE_SIGNATURE_SECRET": SECRET,
        "PARLEY_API_KEY": "k",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "locust", "-f", "load_tests/locustfile.py", "--headless", "--json", "--skip-log-setup",
        "-H", f"http://127.0.0.1:{platform.port}", "-u", "6", "-r", "6", "-t", "100s", "--provider-ms", "0",
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        ending = asyncio.create_task(_end_after_some_calls(platform, process))
        async with asyncio.timeout(110):
            out, err = await process.communicate()
        ending.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await runner.cleanup()
    entries = {entry["name"]: entry for entry in json.loads(out[out.index(b"[") :])}
    assert platform.media >= 1 and platform.events[200] >= 3 and platform.events[401] >= 1, err.decode()[-2000:]
    # The fake hangs up before the script is done: every call is a failure that says so, and none is a refusal.
    call = entries["call"]
    assert call["num_requests"] == call["num_failures"] >= 1
    assert entries["greeting: socket open to first audio"]["num_requests"] >= 1
    for name, entry in entries.items():
        if name.startswith("webhook") or name == "GET calls":
            assert entry["num_failures"] == 0, name
