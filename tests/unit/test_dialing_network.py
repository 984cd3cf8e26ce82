"""API, dialer and webhooks against the simulated network over real sockets: what becomes of calls nobody answers,
and of calls whose webhooks or responses go astray. There is no media ingress here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from cryptography.hazmat.primitives import serialization

from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.clock import SystemClock
from serve_app.dialing.dialer import Dialer
from serve_app.simulators.callee import CalleeBehaviour
from serve_app.simulators.network import add_network_routes
from serve_app.simulators.network_config import NetworkConfig
from serve_app.simulators.network_exchange import Network
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import Agents, ApiKeys, Attempts
from serve_app.telephony.vonage.rest import VonageClient
from tests.unit.api_support import AGENT, APPLICATION_ID, FROM, SECRET, TO, make_settings, private_key_pem

pytest_plugins = ("tests.unit.store_fixtures",)


async def _until(look: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    async with asyncio.timeout(30):
        while True:
            if found := await look():
                return found
            await asyncio.sleep(0.05)


@dataclass
class World:
    http: httpx.AsyncClient
    network: Network
    network_url: str
    db: Database
    live: LiveState

    async def call(self) -> dict[str, Any]:
        response = await self.http.post("/api/v1/calls", json={"to": TO})
        assert response.status_code == 201, response.text
        created: dict[str, Any] = response.json()
        return created

    async def ended(self, call_id: str, timeout_s: float = 30) -> dict[str, Any]:
        async with asyncio.timeout(timeout_s):
            while True:
                call: dict[str, Any] = (await self.http.get(f"/api/v1/calls/{call_id}")).json()
                if call["status"] in ("completed", "failed"):
                    return call
                await asyncio.sleep(0.05)

    async def slots_are_free(self, timeout_s: float = 20) -> None:
        """A slot is given back right after the end of its call is on record."""
        async with asyncio.timeout(timeout_s):
            while True:
                if await self.live.capacity() == (5, 0):
                    return
                await asyncio.sleep(0.05)

    async def fault(self, **fault: Any) -> None:
        async with httpx.AsyncClient() as client:
            response = await client.post(f"{self.network_url}/sim/network/faults", json=fault)
            assert response.status_code < 300, response.text

    def callee(self, **behaviour: Any) -> None:
        self.network.callees[TO[1:]] = CalleeBehaviour(**({"answer_after_ms": 100} | behaviour))


def _public_key() -> str:
    key = serialization.load_pem_private_key(private_key_pem().encode(), None)
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.fixture
async def world(sqlite_db: Database, live: LiveState, tmp_path: Any) -> AsyncIterator[World]:
    listener = socket.create_server(("127.0.0.1", 0))
    public_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    application = web.Application()
    config = NetworkConfig(
        application_id=APPLICATION_ID,
        public_key=_public_key(),
        signature_secret=SECRET,
        answer_url=f"{public_url}/webhooks/vonage/answer",
        event_url=f"{public_url}/webhooks/vonage/event",
        calls_per_second=10,
        talk_ms_per_char=1,
        ringing_after_ms=20,
    )
    network = add_network_routes(application, config)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    network_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    settings = make_settings(
        network_url, server={"public_url": public_url}, vonage={"calls_per_second": 10, "require_payload_hash": True}
    )
    client = VonageClient(settings.telephony.vonage)
    dialer = Dialer(sqlite_db, live, client, settings, SystemClock(), "dialer-1")

    async def wake() -> None:
        dialer.wake()

    deps = ApiDeps(settings, sqlite_db, live, ObjectStore.open(None, tmp_path), client, call_placed=wake)
    key, _ = await ApiKeys(sqlite_db, "default").create("test")
    await Agents(sqlite_db, "default").apply("riverside-dental", AGENT)
    await live.beat("replica-1", 5, ttl_s=600)
    server = uvicorn.Server(uvicorn.Config(create_app(deps), log_level="warning", lifespan="off"))
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=public_url) as http:
        http.headers["Authorization"] = f"Bearer {key}"
        tasks = [asyncio.create_task(server.serve(sockets=[listener])), asyncio.create_task(dialer.run())]
        yield World(http, network, network_url, sqlite_db, live)
        server.should_exit = True
        await tasks[0]
        tasks[1].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await tasks[1]
    await client.aclose()
    await runner.cleanup()


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [("busy", "busy"), ("unanswered", "not_answered"), ("rejected", "rejected"), ("failed", "failed")],
)
async def test_a_call_that_nobody_answers_ends_with_its_outcome(world: World, behaviour: str, outcome: str) -> None:
    world.callee(outcome=behaviour)
    call = await world.ended((await world.call())["id"])
    assert (call["status"], call["outcome"]) == ("failed", outcome)
    assert world.network.create_requests == 1
    await world.slots_are_free()


@pytest.mark.parametrize("fault", ["lost_response", "lost_response_reset"])
async def test_a_lost_response_is_healed_by_webhooks_without_a_second_request(world: World, fault: str) -> None:
    world.callee(outcome="busy", answer_after_ms=1500)
    await world.fault(kind=fault)
    created = await world.call()
    call = await world.ended(created["id"])
    assert call["outcome"] == "busy"
    (attempt,) = await Attempts(world.db, "default").for_call(created["id"])
    assert attempt.carrier_call_id in world.network.calls
    assert world.network.create_requests == 1


async def test_a_throttled_request_is_repeated_until_it_is_taken(world: World) -> None:
    world.callee(outcome="busy")
    await world.fault(kind="rate_limited")
    call = await world.ended((await world.call())["id"])
    assert call["outcome"] == "busy"
    assert (world.network.create_requests, len(world.network.calls)) == (2, 1)


@pytest.mark.parametrize("fault", ["webhook_duplicated", "webhook_reordered"])
async def test_repeated_and_reordered_webhooks_end_the_call_once(world: World, fault: str) -> None:
    world.callee(outcome="busy")
    await world.fault(kind=fault, count=3)
    call = await world.ended((await world.call())["id"])
    async with asyncio.timeout(30):
        # `completed` may come first, and ends the call; the reason follows.
        while call["outcome"] != "busy":
            assert call["outcome"] == "not_answered"
            await asyncio.sleep(0.05)
            call = await world.ended(call["id"])


@pytest.mark.parametrize("fault", ["webhook_unsigned", "webhook_bad_hash", "webhook_stale"])
async def test_forged_webhooks_do_not_end_a_call(world: World, fault: str) -> None:
    world.callee(outcome="busy")
    await world.fault(kind=fault, count=50)
    created = await world.call()
    async with asyncio.timeout(30):
        while True:
            (attempt,) = await Attempts(world.db, "default").for_call(created["id"])
            if attempt.status == "placed" and world.network.calls[attempt.carrier_call_id or ""].status == "busy":
                break
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    call = (await world.http.get(f"/api/v1/calls/{created['id']}")).json()
    assert call["status"] == "dialing"


async def test_an_answered_call_whose_socket_is_refused_still_ends(world: World) -> None:
    world.callee(steps=[{"listen": True}])
    call = await world.ended((await world.call())["id"])
    assert call["status"] == "failed"
    assert call["outcome"] == "media_failure"
    assert call["answered_at"] is not None
    await world.slots_are_free()


async def test_an_inbound_caller_without_a_free_slot_hears_the_apology(world: World) -> None:
    await world.live.leave("replica-1")
    async with httpx.AsyncClient() as client:
        response = await client.post(
            f"{world.network_url}/sim/inbound",
            json={"from": TO[1:], "to": FROM[1:], "behaviour": {"answer_after_ms": 10, "steps": [{"listen": True}]}},
        )
        assert response.status_code < 300, response.text

    async def recorded() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await world.http.get("/api/v1/calls")).json()["items"]
        return items

    (item,) = await _until(recorded)
    call = await world.ended(item["id"])
    assert (call["direction"], call["outcome"], call["from"]) == ("inbound", "no_capacity", TO)
    (sim_call,) = world.network.calls.values()

    async def spoken() -> list[str]:
        texts: list[str] = sim_call.describe()["talk_texts"]
        return texts

    (text,) = await _until(spoken)
    assert "busy" in text
