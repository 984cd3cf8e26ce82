"""The network's webhooks: signed as Vonage signs them, delivered in order per call unless a fault says otherwise."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import jwt
import structlog
from yarl import URL

from serve_app.simulators.network_conduct import CallLuck
from serve_app.simulators.network_config import NetworkConfig, NetworkFaultBook

log = structlog.get_logger(__name__)

# Vonage repeats the NCCO fetch once on these and on timeouts (support article), an event on any other than 2xx.
_ANSWER_RETRIES = frozenset({429, 503, 504})
_REORDER_WAIT_S = 1.0
_KEPT = 5000


@dataclass(frozen=True, slots=True)
class SentWebhook:
    """One delivery. `code`: the platform's HTTP status, None where it did not answer (or `fault` is webhook_lost)."""

    uuid: str | None
    status: str
    url: str
    method: str
    code: int | None
    fault: str | None
    attempt: int
    sent_at: float


@dataclass(frozen=True, slots=True)
class Reply:
    code: int
    body: bytes


@dataclass(slots=True)
class _Event:
    url: str
    document: dict[str, Any]
    reply: asyncio.Future[Reply | None]

    @property
    def status(self) -> str:
        return str(self.document.get("status", "error"))


class WebhookSender:
    """Sends for all calls; owns the HTTP session."""

    def __init__(self, config: NetworkConfig, faults: NetworkFaultBook) -> None:
        self._config = config
        self._faults = faults
        self.sent: deque[SentWebhook] = deque(maxlen=_KEPT)
        self._session = aiohttp.ClientSession(
            trust_env=False, connector=aiohttp.TCPConnector(limit=100), cookie_jar=aiohttp.DummyCookieJar()
        )

    async def close(self) -> None:
        await self._session.close()

    async def event(self, url: str, document: dict[str, Any], luck: str | None = None) -> Reply | None:
        """POST one event; once more when the platform does not take it. None: not delivered.

        `luck`: a fault that was drawn for it; one that is switched on comes before.
        """
        status = str(document.get("status", "error"))
        fault = self._faults.take_webhook(status) or luck
        body = json.dumps(document).encode()
        if fault == "webhook_lost":
            self._note(document, status, url, "POST", None, fault, 1)
            return None
        headers = self._headers(body, fault)
        reply: Reply | None = None
        for attempt in (1, 2):
            reply = await self._send("POST", URL(url), body, headers, self._config.event_timeout_s)
            self._note(document, status, url, "POST", reply, fault, attempt)
            if reply is not None and 200 <= reply.code < 300:
                break
            headers = self._headers(body, fault)
        if fault == "webhook_duplicated":
            # The very same request, token included.
            again = await self._send("POST", URL(url), body, headers, self._config.event_timeout_s)
            self._note(document, status, url, "POST", again, fault, 2)
        return reply

    async def answer(self, url: str, method: str, parameters: dict[str, str]) -> Reply | None:
        """Fetch the NCCO; once more on a timeout, a reset, 429, 503 or 504."""
        fault = self._faults.take_webhook("answer")
        if fault == "webhook_lost":
            self._note(parameters, "answer", url, method, None, fault, 1)
            return None
        target, body = URL(url), b""
        if method == "GET":
            target = target.update_query(parameters)
            signed = json.dumps(dict(target.query), separators=(",", ":"), ensure_ascii=False).encode()
        else:
            signed = body = json.dumps(parameters).encode()
        reply: Reply | None = None
        for attempt in (1, 2):
            reply = await self._send(method, target, body, self._headers(signed, fault), self._config.answer_timeout_s)
            self._note(parameters, "answer", url, method, reply, fault, attempt)
            repeated = fault == "webhook_duplicated" and attempt == 1
            if reply is not None and reply.code not in _ANSWER_RETRIES and not repeated:
                break
        return reply

    def _headers(self, payload: bytes, fault: str | None) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if fault == "webhook_unsigned":
            return headers
        digest = hashlib.sha256(payload + (b"!" if fault == "webhook_bad_hash" else b"")).hexdigest()
        claims = {
            "iat": int(time.time()) - (86_400 if fault == "webhook_stale" else 0),
            "jti": str(uuid.uuid4()),
            "iss": "Vonage",
            "payload_hash": digest,
            "api_key": self._config.api_key,
            "application_id": self._config.application_id,
        }
        token = jwt.encode(claims, self._config.signature_secret, algorithm="HS256")
        return {**headers, "Authorization": f"Bearer {token}"}

    async def _send(self, method: str, url: URL, body: bytes, headers: dict[str, str], total_s: float) -> Reply | None:
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=self._config.connect_timeout_s)
        try:
            async with self._session.request(
                method, url, data=body or None, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return Reply(response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("webhook not delivered", url=str(url.with_query(None)), error=type(error).__name__)
            return None

    def _note(
        self,
        document: dict[str, Any],
        status: str,
        url: str,
        method: str,
        reply: Reply | None,
        fault: str | None,
        n: int,
    ) -> None:
        code = None if reply is None else reply.code
        about = document.get("uuid") or document.get("call_uuid")
        self.sent.append(SentWebhook(about, status, url, method, code, fault, n, time.time()))

    def describe(self) -> list[dict[str, Any]]:
        return [asdict(webhook) for webhook in self.sent]


class CallEvents:
    """One call's events, in order but for faults and luck, without making the call wait for the platform."""

    def __init__(self, sender: WebhookSender, faults: NetworkFaultBook, luck: CallLuck) -> None:
        self._sender = sender
        self._faults = faults
        self._luck = luck
        self._queue: asyncio.Queue[_Event | None] = asyncio.Queue(maxsize=200)

    def put(self, url: str | None, document: dict[str, Any]) -> asyncio.Future[Reply | None]:
        """Queue one event. The future is the platform's answer, None where it did not get the event."""
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        if url is None:
            reply.set_result(None)
        else:
            self._queue.put_nowait(_Event(url, document, reply))
        return reply

    def finish(self) -> None:
        self._queue.put_nowait(None)

    async def run(self) -> None:
        """Deliver until `finish`, what is late included; each delivery is bounded by the event timeout."""
        async with asyncio.TaskGroup() as late:
            while (event := await self._queue.get()) is not None:
                luck = self._luck.of_webhook()
                if luck == "late":
                    late.create_task(self._deliver_late(event, self._luck.delay_s()))
                    continue
                if self._faults.take_reorder(event.status) or luck == "reordered":
                    later = await self._next_within(_REORDER_WAIT_S)
                    if later is not None:
                        await self._deliver(later)
                await self._deliver(event, f"webhook_{luck}" if luck in ("lost", "duplicated") else None)

    async def _deliver_late(self, event: _Event, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._deliver(event)

    async def _next_within(self, seconds: float) -> _Event | None:
        try:
            async with asyncio.timeout(seconds):
                event = await self._queue.get()
        except TimeoutError:
            return None
        if event is None:
            self.finish()
        return event

    async def _deliver(self, event: _Event, luck: str | None = None) -> None:
        reply = await self._sender.event(event.url, event.document, luck)
        if not event.reply.done():
            event.reply.set_result(reply)
