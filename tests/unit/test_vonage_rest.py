"""The REST client against the simulated network: one POST whatever happens, and errors that say what is known."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr

from serve_app.errors import ProviderError, SettingsError
from serve_app.simulators.network_config import NetworkFault
from serve_app.telephony.vonage.rest import NotPlaced, OutcomeUnknown, VonageClient, region_base
from tests.unit.network_fixtures import (
    APPLICATION_ID,
    CALLEE,
    CALLER,
    eventually,
    key_pair,
    serving,
    vonage_network,
    vonage_settings,
)

HOOK = "http://127.0.0.1:9/hook"
SILENT = {"outcome": "no_answer"}


async def place(client: VonageClient, **extra: Any) -> Any:
    return await client.create_call(CALLEE, CALLER, event_url=HOOK, answer_url=HOOK, **extra)


async def test_create_look_up_list_and_hang_up() -> None:
    async with vonage_network(default_callee=SILENT) as (url, network):
        client = VonageClient(vonage_settings(url))
        before = datetime.now(UTC) - timedelta(seconds=5)
        placed = await place(client, ringing_timer=30, length_timer=600, on_machine="continue")
        assert placed.status == "started" and placed.conversation_uuid is not None
        call = network.calls[placed.uuid]
        assert (call.request.to_number, call.request.from_number) == (CALLEE[1:], CALLER[1:])
        assert (call.request.ringing_timer_s, call.request.length_timer_s) == (30, 600)
        assert (call.request.machine_detection, call.request.ends_at_machine) == ("advanced", False)
        assert call.request.answer_method == "POST"
        snapshot = await client.get_call(placed.uuid, region_url=url)
        assert snapshot is not None and (snapshot.to, snapshot.from_) == (CALLEE, CALLER) and not snapshot.over
        found = await client.list_calls(before, datetime.now(UTC) + timedelta(seconds=5))
        assert [c.uuid for c in found] == [placed.uuid]
        assert await client.list_calls(before - timedelta(hours=1), before) == []
        await client.hang_up(placed.uuid, region_url=url)
        await eventually(lambda: call.over)
        await client.hang_up(placed.uuid)  # over
        await client.hang_up("no-such-call")
        assert await client.get_call("no-such-call") is None
        over = await client.get_call(placed.uuid)
        assert over is not None and over.over
        await client.aclose()


@pytest.mark.parametrize(
    ("kind", "error", "status", "retryable", "placed"),
    [
        ("rate_limited", NotPlaced, 429, True, 0),
        ("unauthorized", NotPlaced, 401, False, 0),
        ("server_error", OutcomeUnknown, 500, False, 0),
        ("hang", OutcomeUnknown, None, False, 0),
        ("disconnect", OutcomeUnknown, None, False, 0),
        ("lost_response", OutcomeUnknown, None, False, 1),
        ("lost_response_reset", OutcomeUnknown, None, False, 1),
    ],
)
async def test_every_fault_costs_exactly_one_post(
    kind: Any, error: type[ProviderError], status: int | None, retryable: bool, placed: int
) -> None:
    async with vonage_network(default_callee=SILENT) as (url, network):
        client = VonageClient(vonage_settings(url, request_timeout_s=0.4))
        await client.get_call("warm-up")  # a kept connection: the SDK re-sends on a reset of one of those
        network.faults.active.append(NetworkFault(kind=kind))
        with pytest.raises(error) as caught:
            await place(client)
        assert (caught.value.status, caught.value.retryable) == (status, retryable)
        assert CALLEE[1:] not in str(caught.value)
        await asyncio.sleep(0.1)
        assert network.create_requests == 1 and len(network.calls) == placed
        await client.aclose()


async def test_refused_connection_is_proof_that_nothing_was_placed() -> None:
    client = VonageClient(vonage_settings("http://127.0.0.1:1"))
    with pytest.raises(NotPlaced) as caught:
        await place(client)
    assert caught.value.retryable
    with pytest.raises(ProviderError) as other:
        await client.hang_up("some-call")
    assert other.value.retryable
    await client.aclose()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [(201, "{}", OutcomeUnknown), (201, "not json", OutcomeUnknown), (201, '{"uuid": "../x"}', OutcomeUnknown),
     (302, "", NotPlaced), (400, "{}", NotPlaced), (408, "", OutcomeUnknown), (503, "", OutcomeUnknown)],
)  # fmt: skip
async def test_odd_answers(status: int, body: str, error: type[ProviderError]) -> None:
    posts = 0

    async def create(_: web.Request) -> web.Response:
        nonlocal posts
        posts += 1
        return web.Response(status=status, text=body, headers={"Location": "/elsewhere"} if status == 302 else None)

    app = web.Application()
    app.router.add_post("/v1/calls", create)
    async with serving(app) as url:
        client = VonageClient(vonage_settings(url))
        with pytest.raises(error):
            await place(client)
        await client.aclose()
    assert posts == 1


async def test_retry_after_is_passed_on_and_a_trickling_answer_ends() -> None:
    async def create(_: web.Request) -> web.Response:
        return web.Response(status=429, headers={"Retry-After": "7"})

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:  # never silent for long, never done
            await response.write(b" ")
            await asyncio.sleep(0.05)

    app = web.Application()
    app.router.add_post("/v1/calls", create)
    app.router.add_get("/v1/calls/{uuid}", trickle)
    async with serving(app) as url:
        client = VonageClient(vonage_settings(url, request_timeout_s=0.5))
        with pytest.raises(NotPlaced) as caught:
            await place(client)
        assert caught.value.retry_after_s == 7
        with pytest.raises(ProviderError):
            await client.get_call("x")
        await client.aclose()


async def test_list_follows_pages() -> None:
    async with vonage_network(default_callee=SILENT, calls_per_second=1000, requests_per_second=1000) as (url, network):
        client = VonageClient(vonage_settings(url, request_timeout_s=8))
        start = datetime.now(UTC) - timedelta(seconds=2)
        for _ in range(105):
            await place(client)
        turns = 0

        async def turn() -> None:
            nonlocal turns
            turns += 1

        found = await client.list_calls(start, datetime.now(UTC) + timedelta(seconds=2), turn)
        assert [c.uuid for c in found] == list(network.calls)
        assert turns == 2, "a turn for each page"
        await client.aclose()


async def test_inline_ncco_arrives_whole() -> None:
    ncco = [{"action": "connect", "endpoint": [{"type": "websocket", "uri": "wss://h/m",
             "content-type": "audio/l16;rate=16000", "headers": {"a": "b"}}]}]  # fmt: skip
    async with vonage_network(default_callee=SILENT) as (url, network):
        client = VonageClient(vonage_settings(url))
        placed = await client.create_call(CALLEE, CALLER, event_url=HOOK, ncco=ncco)
        assert network.calls[placed.uuid].request.ncco == ncco
        await client.aclose()


@pytest.mark.parametrize("number", ["447700900000", "+0123", "", "+44 7700 900000", "+447700900000\n", "+٤٤٧٧٠٠٩٠٠"])
async def test_only_e164_is_sent(number: str) -> None:
    client = VonageClient(vonage_settings())
    with pytest.raises(ValueError, match=r"E\.164"):
        await client.create_call(number, CALLER, event_url=HOOK, answer_url=HOOK)
    with pytest.raises(ValueError, match="either"):
        await client.create_call(CALLEE, CALLER, event_url=HOOK)
    with pytest.raises(ValueError):
        await place(client, ringing_timer=500)
    await client.aclose()


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("https://api-us-1.nexmo.com", "https://api-us-1.nexmo.com"),
        ("https://api-eu-1.vonage.com/v1", "https://api-eu-1.vonage.com"),
        ("https://api-us-1.nexmo.com:443", "https://api-us-1.nexmo.com"),
        ("http://127.0.0.1:8/", "http://127.0.0.1:8"),
        ("http://api-us-1.nexmo.com", None),
        ("https://api.nexmo.com.evil.test", None),
        ("https://evilnexmo.com", None),
        ("https://user@api.nexmo.com", None),
        ("https://evil.test/.nexmo.com", None),
        ("https://api.nexmo.com:8443", None),
        ("http://127.0.0.1:9", None),
        ("https://[broken", None),
        ("nonsense", None),
        ("", None),
        (None, None),
    ],
)
def test_our_token_goes_only_to_vonage(region: str | None, expected: str | None) -> None:
    assert region_base(region, "http://127.0.0.1:8/") == (expected or "http://127.0.0.1:8")


@pytest.mark.parametrize("call_id", ["../applications", "", "a/b", "x" * 100, "a?b"])
async def test_a_call_id_from_outside_cannot_choose_the_path(call_id: str) -> None:
    client = VonageClient(vonage_settings())
    with pytest.raises(ProviderError, match="not a call uuid"):
        await client.hang_up(call_id)
    await client.aclose()


def test_private_key_as_text_as_file_without_extension_and_as_pkcs1(tmp_path: Path) -> None:
    private, public = key_pair()
    key = serialization.load_pem_private_key(private.encode(), None)
    pkcs1 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
    file = tmp_path / "vonage_key"
    file.write_text(private)
    for value in (private, pkcs1, private.replace("\n", "\\n"), str(file)):
        client = VonageClient(vonage_settings(private_key=SecretStr(value)))
        token = client._jwt.generate_application_jwt()
        assert jwt.decode(token, public, algorithms=["RS256"])["application_id"] == APPLICATION_ID


async def test_the_key_is_parsed_once_and_not_for_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = key_pair()
    client = VonageClient(vonage_settings(private_key=SecretStr(private)))

    def parsed(*_: object, **__: object) -> None:
        raise AssertionError("a key was parsed again")

    monkeypatch.setattr("jwt.algorithms.load_pem_private_key", parsed)
    assert len({client._jwt.generate_application_jwt() for _ in range(3)}) == 3
    await client.aclose()


@pytest.mark.parametrize("value", ["/no/such/file", "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----"])
def test_a_bad_key_names_the_setting(value: str) -> None:
    with pytest.raises(SettingsError, match=r"telephony\.vonage\.private_key"):
        VonageClient(vonage_settings(private_key=SecretStr(value)))
    with pytest.raises(SettingsError, match="VONAGE_APPLICATION_ID"):
        VonageClient(vonage_settings(application_id=None))
