"""A simulated Vonage network and a small platform that it calls, both on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from aiohttp import WSMsgType, web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from serve_app.settings import VonageSettings
from serve_app.simulators.network import add_network_routes
from serve_app.simulators.network_config import NetworkConfig
from serve_app.simulators.network_exchange import Network

APPLICATION_ID = "11111111-2222-3333-4444-555555555555"
SECRET = "signature-secret-of-the-tests-0123456789"
CALLEE = "+447700900000"
CALLER = "+447700900001"


@cache
def key_pair() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def vonage_settings(base_url: str = "http://127.0.0.1:1", **extra: Any) -> VonageSettings:
    values: dict[str, Any] = {
        "api_key": "abcd1234", "application_id": APPLICATION_ID, "private_key": SecretStr(key_pair()[0]),
        "signature_secret": SecretStr(SECRET), "from_number": CALLER, "base_url": base_url, "request_timeout_s": 2,
    }  # fmt: skip
    return VonageSettings(**(values | extra))


@contextlib.asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield site.name
    finally:
        await runner.cleanup()


@dataclass
class Hook:
    """A webhook that the platform got."""

    method: str
    headers: dict[str, str]
    body: bytes
    query: list[tuple[str, str]]

    @property
    def document(self) -> dict[str, Any]:
        return dict(json.loads(self.body)) if self.body else dict(self.query)


@dataclass
class Platform:
    """Answers webhooks, and speaks (`frames` of tone) to whoever opens its media socket."""

    url: str = ""
    ncco: Callable[[Platform], list[dict[str, Any]]] = lambda platform: platform.connect()
    answers: list[Hook] = field(default_factory=list)
    events: list[Hook] = field(default_factory=list)
    answer_statuses: list[int] = field(default_factory=list)
    """HTTP statuses of the next answers to answer webhooks, then 200."""
    event_statuses: list[int] = field(default_factory=list)
    media_text: list[dict[str, Any]] = field(default_factory=list)
    media_audio: bytearray = field(default_factory=bytearray)
    media_headers: dict[str, str] = field(default_factory=dict)
    tone_frames: int = 25
    close_after_s: float | None = None
    refuse_media: int | None = None

    def connect(self, rate: int = 16000) -> list[dict[str, Any]]:
        return [
            {
                "action": "connect",
                "eventType": "synchronous",
                "eventUrl": [f"{self.url}/event"],
                "endpoint": [
                    {
                        "type": "websocket",
                        "uri": self.url.replace("http", "ws") + "/media",
                        "content-type": f"audio/l16;rate={rate}",
                        "headers": {"call_id": "call-1"},
                        "authorization": {"type": "custom", "value": "Bearer token-1"},
                    }
                ],
            }
        ]

    def statuses(self, uuid: str) -> list[str]:
        return [e.document["status"] for e in self.events if e.document.get("uuid") == uuid]

    async def answer(self, request: web.Request) -> web.Response:
        self.answers.append(await _hook(request))
        status = self.answer_statuses.pop(0) if self.answer_statuses else 200
        return web.json_response(self.ncco(self), status=status)

    async def event(self, request: web.Request) -> web.Response:
        self.events.append(await _hook(request))
        return web.Response(status=self.event_statuses.pop(0) if self.event_statuses else 200)

    async def media(self, request: web.Request) -> web.StreamResponse:
        if self.refuse_media is not None:
            return web.Response(status=self.refuse_media)
        ws = web.WebSocketResponse(compress=False)
        self.media_headers = dict(request.headers)
        await ws.prepare(request)
        talk = asyncio.create_task(self._talk(ws))
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                self.media_text.append(json.loads(message.data))
            elif message.type is WSMsgType.BINARY:
                self.media_audio += message.data
        talk.cancel()
        return ws

    async def _talk(self, ws: web.WebSocketResponse) -> None:
        frame = b"\x00\x20\x00\xe0" * 160
        for _ in range(self.tone_frames):
            await ws.send_bytes(frame)
        if self.close_after_s is not None:
            await asyncio.sleep(self.close_after_s)
            await ws.close()


async def _hook(request: web.Request) -> Hook:
    return Hook(request.method, dict(request.headers), await request.read(), list(request.query.items()))


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[Platform]:
    it = Platform()
    app = web.Application()
    app.router.add_route("*", "/answer", it.answer)
    app.router.add_route("*", "/event", it.event)
    app.router.add_get("/media", it.media)
    async with serving(app) as url:
        it.url = url
        yield it


@contextlib.asynccontextmanager
async def vonage_network(**config: Any) -> AsyncIterator[tuple[str, Network]]:
    values: dict[str, Any] = {
        "api_key": "abcd1234", "application_id": APPLICATION_ID, "public_key": key_pair()[1],
        "signature_secret": SECRET, "ringing_after_ms": 1, "talk_ms_per_char": 1,
    }  # fmt: skip
    app = web.Application()
    network = add_network_routes(app, NetworkConfig(**(values | config)))
    async with serving(app) as url:
        yield url, network


async def eventually(condition: Callable[[], object], timeout_s: float = 30) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - the condition is state of several objects
            await asyncio.sleep(0.01)
