"""What tests of the control plane use: settings, a fake Vonage that counts its requests, signed webhooks, dumps."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jwt
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from sqlalchemy import text

from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.api.inbox import Inbox
from serve_app.clock import Clock, SystemClock
from serve_app.settings import Settings
from serve_app.store.base import Base
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import Agents, ApiKeys
from serve_app.telephony.vonage.rest import VonageClient

SECRET = "signature-secret-of-the-tests-0123456789"
APPLICATION_ID = "11111111-2222-3333-4444-555555555555"
FROM = "+12025550100"
TO = "+12025550123"
PUBLIC_URL = "https://parley.example"

AGENT: dict[str, Any] = {
    "name": "riverside-dental",
    "business": "Riverside Dental",
    "opening": "Hello, this is Ava.",
    "system_prompt": "You are Ava.",
}


@cache
def private_key_pem() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def make_settings(vonage_url: str = "http://127.0.0.1:9", **overrides: Any) -> Settings:
    network = {
        "application_id": APPLICATION_ID,
        "private_key": private_key_pem(),
        "signature_secret": SECRET,
        "from_number": FROM,
        "base_url": vonage_url,
        "calls_per_second": 200,
        "request_timeout_s": 1.0,
    }
    network |= overrides.pop("vonage", {})
    document: dict[str, Any] = {"server": {"public_url": PUBLIC_URL}, "telephony": {"vonage": network}}
    return Settings(**(document | overrides))


class StoppedClock(SystemClock):
    """The time of the records is what the test says; durations are real."""

    def __init__(self, time: datetime) -> None:
        self.time = time

    def now(self) -> datetime:
        return self.time


@dataclass
class FakeVonage:
    """Takes create-call requests and does as it is told; every POST is counted."""

    url: str = ""
    behaviour: str = "place"
    posts: list[dict[str, Any]] = field(default_factory=list)
    hung_up: list[str] = field(default_factory=list)
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.posts.append(body)
        behaviour = self.behaviour
        if behaviour == "slow":
            await asyncio.sleep(0.4)  # within the client's timeout
        if behaviour in ("place", "slow", "lost_response"):
            call = self.add_call(body["to"][0]["number"], body["from"]["number"])
            if behaviour == "lost_response":
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            keep = {"uuid", "conversation_uuid", "status", "direction"}
            return web.json_response({k: v for k, v in call.items() if k in keep}, status=201)
        if behaviour == "hang":
            await asyncio.sleep(1.5)  # beyond the client's timeout
        if behaviour == "disconnect":
            assert request.transport is not None
            request.transport.abort()
        if behaviour == "throttle_once":
            self.behaviour = "place"
            return web.json_response({"title": "throttled"}, status=429, headers={"Retry-After": "0"})
        if behaviour.startswith("400 "):
            return web.json_response({"title": "no", "invalid_parameters": {behaviour[4:]: "invalid"}}, status=400)
        return web.json_response({"title": "no"}, status=int(behaviour) if behaviour.isdigit() else 500)

    def add_call(self, to: str, from_: str, status: str = "started") -> dict[str, Any]:
        call = {
            "uuid": str(uuid.uuid4()),
            "conversation_uuid": f"CON-{uuid.uuid4()}",
            "status": status,
            "direction": "outbound",
            "to": {"type": "phone", "number": to},
            "from": {"type": "phone", "number": from_},
        }
        self.calls[str(call["uuid"])] = call
        return call

    async def modify(self, request: web.Request) -> web.Response:
        self.hung_up.append(request.match_info["uuid"])
        return web.Response(status=204)

    async def read(self, request: web.Request) -> web.Response:
        call = self.calls.get(request.match_info["uuid"])
        return web.json_response(call) if call is not None else web.json_response({"title": "none"}, status=404)

    async def listing(self, _request: web.Request) -> web.Response:
        return web.json_response({"count": len(self.calls), "_embedded": {"calls": list(self.calls.values())}})


@dataclass
class Plane:
    """The API in this process, with a key for it."""

    settings: Settings
    db: Database
    live: LiveState
    vonage: FakeVonage
    http: httpx.AsyncClient
    key: str
    deps: ApiDeps
    woken: list[str]
    inbox: Inbox

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    async def another_key(self, tenant: str) -> dict[str, str]:
        plaintext, _ = await ApiKeys(self.db, tenant).create("test")
        return {"Authorization": f"Bearer {plaintext}"}

    async def place(self, to: str = TO) -> dict[str, Any]:
        response = await self.http.post("/api/v1/calls", json={"to": to}, headers=self.auth)
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created


async def make_plane(
    db: Database,
    live: LiveState,
    vonage: FakeVonage,
    folder: Path,
    settings: Settings | None = None,
    *,
    clock: Clock | None = None,
) -> tuple[Plane, VonageClient]:
    settings = settings or make_settings(vonage.url)
    client = VonageClient(settings.telephony.vonage)
    woken: list[str] = []

    async def call_placed() -> None:
        woken.append("dialer")

    async def call_ended() -> None:
        woken.append("workers")

    async def changed(tenant_id: str) -> None:
        woken.append(f"dialer: {tenant_id}")

    deps = ApiDeps(
        settings=settings,
        db=db,
        live=live,
        objects=ObjectStore.open(None, folder),
        control=client,
        call_placed=call_placed,
        call_ended=call_ended,
        changed=changed,
        describe_runtime=lambda: {"haproxy": False},
        clock=clock or SystemClock(),
    )
    key, _ = await ApiKeys(db, settings.tenant).create("test")
    await Agents(db, settings.tenant).apply("riverside-dental", AGENT)
    await live.beat("replica-1", 10, ttl_s=600)
    app = create_app(deps)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url="http://api.local")
    return Plane(settings, db, live, vonage, http, key, deps, woken, app.state.inbox), client


def signed(
    body: bytes,
    *,
    secret: str = SECRET,
    age_s: float = 0,
    payload: bytes | None = None,
    jti: str | None = None,
    **claims: Any,
) -> dict[str, str]:
    """Headers of a webhook as Vonage signs it."""
    issued = datetime.now(UTC) - timedelta(seconds=age_s)
    document = {
        "iat": int(issued.timestamp()),
        "jti": jti or str(uuid.uuid4()),
        "iss": "Vonage",
        "application_id": APPLICATION_ID,
        "payload_hash": hashlib.sha256(body if payload is None else payload).hexdigest(),
    }
    token = jwt.encode(document | claims, secret, algorithm="HS256")
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


async def send(plane: Plane, path: str, document: dict[str, Any], **signing: Any) -> httpx.Response:
    """POST a signed webhook. `path` may be a full URL of the platform."""
    body = json.dumps(document).encode()
    return await plane.http.post(path.removeprefix(PUBLIC_URL), content=body, headers=signed(body, **signing))


async def dump(db: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, for comparisons of before and after."""
    async with db.session() as session:
        return {
            table.name: sorted(map(repr, (await session.execute(text(f"SELECT * FROM {table.name}"))).all()))
            for table in Base.metadata.sorted_tables
        }


async def redis_keys(live: LiveState) -> set[str]:
    return set(await live.client.keys("*"))
