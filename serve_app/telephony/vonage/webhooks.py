"""Vonage's webhooks: who sent one, and what it says.

The SDK's `verify_signature` checks only the signature, and raises on any clock skew; what it leaves out (age, payload
hash, account) is here. Source: Vonage "Signed webhooks" guide.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import jwt
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serve_app.errors import ParleyError
from serve_app.settings import VonageSettings
from serve_app.telephony.vonage.numbers import from_wire

CLOCK_LEEWAY = timedelta(seconds=30)
_MAX_HEADER_CHARS = 4096
# Times are compared with the caller's clock below, not with PyJWT's; the claims of these tokens have no audience.
_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


class WebhookRejected(ParleyError):  # noqa: N818 - it is a verdict
    """The webhook does not prove that Vonage sent it, now, to us. Answer 401 and change nothing."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"webhook rejected: {reason}")
        self.reason = reason


class MalformedEvent(ParleyError):  # noqa: N818
    """A webhook whose body cannot be read. Answer 400."""


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """What the signature vouches for. Without a `payload_hash` that is not the body."""

    issued_at: datetime
    jti: str | None
    api_key: str | None
    application_id: str | None
    payload_hash: str | None


def verify(
    authorization: str | None,
    method: str,
    raw_body: bytes,
    query_items: Sequence[tuple[str, str]],
    settings: VonageSettings,
    now: datetime,
) -> SignedClaims:
    """Check a webhook's `Authorization: Bearer <JWT>` against the account's signature secret.

    `query_items` are the decoded query parameters in their order. Raises WebhookRejected: missing or forged token,
    any algorithm but HS256, older than `max_webhook_age_s`, issued in the future or expired (30 s leeway), another
    account or application, wrong payload hash, or a missing one where `require_payload_hash` is set.
    """
    claims = _decode(_bearer(authorization), settings)
    issued_at = _check_times(claims, settings, now)
    api_key = _same(claims, "api_key", settings.api_key)
    application_id = _same(claims, "application_id", settings.application_id)
    payload_hash = _text_claim(claims, "payload_hash")
    if payload_hash is not None:
        expected = hashlib.sha256(signed_payload(method, raw_body, query_items)).hexdigest()
        if not hmac.compare_digest(payload_hash.lower().encode("utf-8", "surrogatepass"), expected.encode()):
            raise WebhookRejected("payload hash does not match")
    elif settings.require_payload_hash:
        raise WebhookRejected("no payload hash")
    return SignedClaims(issued_at, _text_claim(claims, "jti"), api_key, application_id, payload_hash)


def signed_payload(method: str, raw_body: bytes, query_items: Sequence[tuple[str, str]]) -> bytes:
    """The bytes that `payload_hash` covers: the raw body; for GET, the query as a JSON object without whitespace."""
    if method.upper() != "GET":
        return raw_body
    return json.dumps(dict(query_items), separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def replay_key(claims: SignedClaims, body: bytes) -> str:
    """The same for a repeated delivery. `body`: what `signed_payload` returns (a GET has no body of its own)."""
    return f"jti:{claims.jti}" if claims.jti else f"sha256:{hashlib.sha256(body).hexdigest()}"


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise WebhookRejected("no authorization header")
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or len(token) > _MAX_HEADER_CHARS:
        raise WebhookRejected("no bearer token")
    return token.strip()


def _decode(token: str, settings: VonageSettings) -> dict[str, Any]:
    if settings.signature_secret is None:
        raise WebhookRejected("no signature secret is configured")
    try:
        # HS256 only: "none" and asymmetric algorithms would let the sender choose how it is checked.
        claims: dict[str, Any] = jwt.decode(
            token, settings.signature_secret.get_secret_value(), algorithms=["HS256"], options=_SIGNATURE_ONLY
        )
    except (jwt.PyJWTError, ValueError) as error:
        raise WebhookRejected(f"token does not verify ({type(error).__name__})") from error
    return claims


def _check_times(claims: dict[str, Any], settings: VonageSettings, now: datetime) -> datetime:
    issued_at = _time_claim(claims, "iat")
    if issued_at is None:
        raise WebhookRejected("no iat")
    if issued_at > now + CLOCK_LEEWAY:
        raise WebhookRejected("issued in the future")
    if now - issued_at > timedelta(seconds=settings.max_webhook_age_s) + CLOCK_LEEWAY:
        raise WebhookRejected("too old")
    expires_at, not_before = _time_claim(claims, "exp"), _time_claim(claims, "nbf")
    if expires_at is not None and now >= expires_at + CLOCK_LEEWAY:
        raise WebhookRejected("expired")
    if not_before is not None and now < not_before - CLOCK_LEEWAY:
        raise WebhookRejected("not yet valid")
    return issued_at


def _time_claim(claims: dict[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WebhookRejected(f"{name} is not a time")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise WebhookRejected(f"{name} is not a time") from error


def _text_claim(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is not None and (not isinstance(value, str) or len(value) > 256):
        raise WebhookRejected(f"{name} is not text")
    return value or None


def _same(claims: dict[str, Any], name: str, ours: str | None) -> str | None:
    value = _text_claim(claims, name)
    if value is not None and ours is not None and value != ours:
        raise WebhookRejected(f"{name} is not ours")
    return value


def _scalar_text(value: object) -> object:
    """Numbers come as JSON numbers or strings, depending on the event; objects in these fields are of no use."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value)


def _number(value: object) -> object:
    text = _scalar_text(value)
    return from_wire(text) if isinstance(text, str) else text


ScalarText = Annotated[str | None, BeforeValidator(_scalar_text)]
Endpoint = Annotated[str | None, BeforeValidator(_number)]


class VonageEvent(BaseModel):
    """An answer or event webhook. Everything is optional: `error` events have no uuid, machine events no direction.

    `to` and `from_` are E.164 with `+` where they are phone numbers. Prices, rates and durations stay text, as sent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    # `human` and `machine` events name the call in `call_uuid`.
    uuid: ScalarText = Field(None, validation_alias=AliasChoices("uuid", "call_uuid"))
    conversation_uuid: ScalarText = None
    status: ScalarText = None
    direction: ScalarText = None
    detail: ScalarText = None
    sub_state: ScalarText = None
    reason: ScalarText = None
    disconnected_by: ScalarText = None
    to: Endpoint = None
    from_: Endpoint = Field(None, validation_alias=AliasChoices("from", "from_"))
    timestamp: ScalarText = None
    start_time: ScalarText = None
    end_time: ScalarText = None
    duration: ScalarText = None
    price: ScalarText = None
    rate: ScalarText = None
    network: ScalarText = None
    region_url: ScalarText = None

    @property
    def of_media_leg(self) -> bool:
        """True for events of the WebSocket's own leg: another uuid, same conversation, `to` is our media URL."""
        return self.to is not None and self.to.startswith(("wss://", "ws://"))

    @property
    def occurred_at(self) -> datetime | None:
        """`timestamp` as aware UTC, or None where it is missing or unreadable."""
        return _moment(self.timestamp)

    @property
    def talk_began_at(self) -> datetime | None:
        """Of a `completed` event: when the talk began that is charged for; None: there was none, or it does not tell.

        A call that nobody answered has a duration of 0, or none.
        """
        return _moment(self.start_time) if self.duration is not None and self.duration.strip("0.") else None


def _moment(text: str | None) -> datetime | None:
    """Aware UTC; None for what is missing or unreadable."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_event(raw_body: bytes, query_items: Sequence[tuple[str, str]] = ()) -> VonageEvent:
    """Read a webhook: the JSON body if there is one, else the query. Raises MalformedEvent."""
    document: object = dict(query_items)
    if raw_body.strip():
        try:
            document = json.loads(raw_body)
        except (ValueError, RecursionError) as error:
            raise MalformedEvent("the webhook's body is not JSON") from error
    if not isinstance(document, dict):
        raise MalformedEvent("the webhook's body is not a JSON object")
    return read_event(document)


def read_event(document: Mapping[str, Any]) -> VonageEvent:
    """An event from its fields, as they were sent. Raises MalformedEvent."""
    try:
        return VonageEvent.model_validate({key: value for key, value in document.items() if value not in (None, "")})
    except ValidationError as error:
        raise MalformedEvent("the webhook's body has fields of unknown shape") from error
