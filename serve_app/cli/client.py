"""The REST API and the simulators' control, as the CLI uses them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from serve_app.errors import ParleyError
from serve_app.local_endpoints import sqlite_url
from serve_app.settings import load_settings
from serve_app.store.db import Database
from serve_app.store.repositories import ApiKeys

KEY_LIFE = timedelta(hours=1)


class ApiError(ParleyError):
    """The platform refused a request. The message is its own."""


async def api_key() -> str:
    """`PARLEY_API_KEY`; else, on the machine that holds the SQL database, a key that expires after an hour."""
    given = os.environ.get("PARLEY_API_KEY")
    if given:
        return given
    settings = load_settings()
    db = await Database.connect(settings.database.url or sqlite_url(settings))
    try:
        key, _ = await ApiKeys(db, settings.tenant).create("cli", expires_at=datetime.now(UTC) + KEY_LIFE)
    finally:
        await db.aclose()
    return key


@contextmanager
def _reached(url: str) -> Iterator[None]:
    """Whatever goes wrong on the way to a server becomes an ApiError that names it."""
    try:
        yield
    except httpx.HTTPError as error:
        told = str(error) or type(error).__name__
        raise ApiError(f"{url} does not answer ({told}); is the platform still running?") from error


class ApiClient:
    """One platform. Use as an async context manager."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=httpx.Timeout(15)
        )

    async def __aenter__(self) -> ApiClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> dict[str, Any]:
        return self._json(await self._send("GET", path))

    async def find(self, path: str) -> dict[str, Any] | None:
        """Like `get`; None for 404."""
        answer = await self._send("GET", path)
        return None if answer.status_code == 404 else self._json(answer)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._json(await self._send("POST", path, body))

    async def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._json(await self._send("PUT", path, body))

    async def events(self, call_id: str) -> AsyncIterator[dict[str, Any]]:
        """Live events of a call until it ends."""
        timeout = httpx.Timeout(10, read=90)
        path = f"/api/v1/calls/{call_id}/events"
        with _reached(str(self._http.base_url)):
            async for event in self._stream(path, timeout):
                yield event

    async def _stream(self, path: str, timeout: httpx.Timeout) -> AsyncIterator[dict[str, Any]]:
        async with self._http.stream("GET", path, timeout=timeout) as stream:
            if stream.status_code != 200:
                await stream.aread()
                self._json(stream)
            name = ""
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    event = json.loads(line[6:])
                    yield event if "type" in event else {**event, "type": name}
                    if name == "end":
                        return

    async def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        with _reached(str(self._http.base_url)):
            return await self._http.request(method, path, json=body)

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            document = answer.json()
        except ValueError:
            document = {}
        if answer.status_code == 401:
            raise ApiError("the API key is not known to this platform; set PARLEY_API_KEY to one of its keys")
        if answer.is_error:
            told = [str(document.get(name)) for name in ("title", "detail", "remedy") if document.get(name)]
            raise ApiError("; ".join(told) or f"{answer.request.method} {answer.request.url}: {answer.status_code}")
        assert isinstance(document, dict)
        return document


class SimulatorClient:
    """The control side of the simulated phone network, on this machine only."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(15))

    async def __aenter__(self) -> SimulatorClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def set_callee(self, number: str, behaviour: dict[str, Any]) -> None:
        """How the callee at this number behaves from now on. Raises ApiError with the simulator's own words."""
        with _reached(str(self._http.base_url)):
            answer = await self._http.put(f"/sim/callees/{number.lstrip('+')}", json=behaviour)
        if answer.is_error:
            raise ApiError(f"the simulated callee was refused: {answer.text[:500]}")

    async def set_conduct(self, conduct: dict[str, Any]) -> None:
        """Who answers and how unkind the network is from now on. Raises ApiError with the simulator's own words."""
        with _reached(str(self._http.base_url)):
            answer = await self._http.put("/sim/network/conduct", json=conduct)
        if answer.is_error:
            raise ApiError(f"the network's conduct was refused: {answer.text[:500]}")

    async def calls(self) -> dict[str, Any]:
        """All calls as the network has them, and how many requests came and were refused."""
        found: dict[str, Any] = await self._get("/sim/calls")
        return found

    async def webhook_faults(self) -> dict[str, int]:
        """How many webhooks met which fault."""
        return dict(Counter(sent["fault"] for sent in await self._get("/sim/webhooks") if sent["fault"] is not None))

    async def _get(self, path: str) -> Any:
        with _reached(str(self._http.base_url)):
            answer = await self._http.get(path)
            answer.raise_for_status()
        return answer.json()

    async def call(self, call_id: str) -> dict[str, Any] | None:
        """The network's own view of a call of ours; None if it never carried it."""
        with _reached(str(self._http.base_url)):
            answer = await self._http.get(f"/sim/calls/{call_id}")
            if answer.status_code == 404:
                return None
            answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found
