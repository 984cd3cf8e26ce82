"""Vonage's webhooks. Nothing is read, written or answered before the signature, its age and its hash are proven."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass

import structlog
from fastapi import APIRouter, Request, Response

from serve_app.api.answering import Answering
from serve_app.api.deps import ApiDeps, Deps
from serve_app.api.folding import call_of
from serve_app.api.inbox import Inbox
from serve_app.api.problems import ProblemError
from serve_app.dialing.links import ANSWER_PATH, EVENT_PATH, AttemptLinks, AttemptRef
from serve_app.metrics import ANSWER_SECONDS, WEBHOOKS
from serve_app.store.repositories import RawEvent
from serve_app.telephony.vonage.webhooks import (
    MalformedEvent,
    SignedClaims,
    VonageEvent,
    WebhookRejected,
    parse_event,
    replay_key,
    signed_payload,
    verify,
)

router = APIRouter(include_in_schema=False)
# The network waits 1 to 5 s for an answer and up to 10 s for an event (Vonage support), then it asks once more.
ANSWER_DEADLINE_S = 4.5
EVENT_DEADLINE_S = 9.0
LARGEST_BODY = 64 * 1024
_DEDUPE_CHARS = 128
log = structlog.get_logger(__name__)


@router.api_route(ANSWER_PATH, methods=["GET", "POST"])
async def answer_webhook(request: Request, deps: Deps) -> Response:
    """What to do with a call that is there now. The same question gets the same answer."""
    with ANSWER_SECONDS.time():
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            webhook = await _receive(request, deps, "answer")
            ncco = await Answering(deps, request.app.state.links).answer(webhook.event, webhook.ref, webhook.raw)
        WEBHOOKS.labels("answer", "answered").inc()
        return Response(ncco, media_type="application/json")


@router.api_route(EVENT_PATH, methods=["GET", "POST"])
async def event_webhook(request: Request, deps: Deps) -> Response:
    """Something happened to a call. The body of the response is empty: anything else could be taken for an NCCO."""
    async with asyncio.timeout(EVENT_DEADLINE_S):
        webhook = await _receive(request, deps, "event")
        inbox: Inbox = request.app.state.inbox
        result = await inbox.take(webhook.event, webhook.ref, webhook.raw)
    WEBHOOKS.labels("event", result).inc()
    return Response(status_code=200)


@dataclass(frozen=True, slots=True)
class _Webhook:
    """A webhook that is proven to come from the network, now."""

    event: VonageEvent
    ref: AttemptRef | None
    raw: RawEvent


async def _receive(request: Request, deps: ApiDeps, kind: str) -> _Webhook:
    raw_body = await _body(request)
    query = list(request.query_params.multi_items())
    network = deps.settings.telephony.vonage
    try:
        claims = verify(
            request.headers.get("authorization"), request.method, raw_body, query, network, deps.clock.now()
        )
        ref = _attempt_ref(request.app.state.links, dict(query))
        event = parse_event(raw_body, query)
    except WebhookRejected as error:
        WEBHOOKS.labels(kind, "rejected").inc()
        log.warning("webhook_rejected", kind=kind, reason=error.reason)
        raise ProblemError(401, "webhook_rejected", "this webhook does not prove where it comes from") from error
    except MalformedEvent as error:
        WEBHOOKS.labels(kind, "malformed").inc()
        raise ProblemError(400, "malformed_webhook", str(error)) from error
    document = json.loads(raw_body) if raw_body.strip() else {k: v for k, v in query if k != "sig"}
    payload = signed_payload(request.method, raw_body, query)
    raw = RawEvent(
        dedupe_key=_dedupe_key(kind, claims, payload),
        source="vonage",
        kind=kind if event.status is None else f"{kind}:{event.status}"[:64],
        carrier_call_id=call_of(event),
        body=document,
        received_at=deps.clock.now(),
        attempt_id=ref.attempt_id if ref is not None else None,
    )
    return _Webhook(event, ref, raw)


def _attempt_ref(links: AttemptLinks, query: dict[str, str]) -> AttemptRef | None:
    """The attempt in our own link; None for a URL without one (inbound). Raises WebhookRejected for a forged one."""
    if not {"tenant", "attempt", "sig"} & query.keys():
        return None
    ref = links.check(query.get("tenant", ""), query.get("attempt", ""), query.get("sig", ""))
    if ref is None:
        raise WebhookRejected("the attempt's link is not signed by us")
    return ref


def _dedupe_key(kind: str, claims: SignedClaims, payload: bytes) -> str:
    key = f"{kind}:{replay_key(claims, payload)}"
    if len(key) <= _DEDUPE_CHARS:
        return key
    return f"{kind}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


async def _body(request: Request) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > LARGEST_BODY:
            raise ProblemError(413, "too_large", f"a webhook body is at most {LARGEST_BODY} bytes")
        chunks.append(chunk)
    return b"".join(chunks)
