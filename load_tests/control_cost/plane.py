"""The control plane as one call meets it, without HTTP and Ray."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
from pydantic import SecretStr

from load_tests.control_cost.tally import Tally, acting_for
from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.clock import SystemClock
from serve_app.conversation.journal import TurnRecord
from serve_app.conversation.latency import TurnLatency
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.dialing.dialer import Dialer
from serve_app.dialing.links import AttemptRef
from serve_app.jobs.finalize import reconcile
from serve_app.jobs.mix_recording import MixRecording
from serve_app.jobs.runner import JobRunner
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import HeldCall, LiveState
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import (
    MIX_RECORDING,
    PREPARE_LINES,
    Agents,
    ApiKeys,
    Attempts,
    Calls,
    JobRow,
    Jobs,
)
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


class Network:
    """The phone network, as far as the control plane asks it: takes every call, hangs up every call."""

    async def create_call(self, *_: Any, **__: Any) -> PlacedCall:
        return PlacedCall(uuid=str(uuid.uuid4()), conversation_uuid=f"CON-{uuid.uuid4()}", status="started")

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        return None


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
        with acting_for("dialer"):
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
        with acting_for("recording"):
            mix = MixRecording(db, objects, self._mix)
            # The agent's lines are made once for all of its calls: no part of what a call costs.
            self.runner = JobRunner(db, {MIX_RECORDING: mix, PREPARE_LINES: _nothing}, owner="runner")
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
                held = HeldCall(
                    lease.slot_id, lease.call_id, lease.epoch, {"tenant_id": TENANT, "replica": "replica"}, lease.scopes
                )
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
        with acting_for("measurement"):
            while True:
                if await Jobs(self.db).next_due() is None:
                    return
                await asyncio.sleep(0.005)

    async def _wake_dialer(self) -> None:
        self.dialer.wake()

    async def _until_status(self, call_id: str, status: str) -> None:
        # Its own looks are not the platform's.
        with acting_for("measurement"):
            while True:
                call = await Calls(self.db, TENANT).get(call_id)
                if call is not None and call.status == status and call.carrier_call_id is not None:
                    return
                await asyncio.sleep(0.002)

    async def _event_url(self, call_id: str) -> str:
        with acting_for("measurement"):
            (attempt,) = await Attempts(self.db, TENANT).for_call(call_id)
        links = self.app.state.links
        return str(links.event_url(AttemptRef(TENANT, attempt.id)))

    async def _carrier_id(self, call_id: str) -> str:
        with acting_for("measurement"):
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


async def _nothing(job: JobRow) -> None:
    return None


def _turn(index: int, *, callee: bool) -> TurnRecord:
    text = "Where can I park?" if callee else "There is parking behind the house, free for patients."
    latency = TurnLatency() if callee else TurnLatency(400.0, 200.0, 50.0, 150.0, 3.0, 40.0, 803.0, False)
    return TurnRecord(
        index, "callee" if callee else "agent", text, text, index * 3000.0, index * 3000.0 + 2500, latency=latency
    )
