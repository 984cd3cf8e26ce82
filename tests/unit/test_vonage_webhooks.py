"""Signed webhooks: what is accepted, what is refused, and how events are read."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.telephony.vonage.webhooks import (
    MalformedEvent,
    WebhookRejected,
    parse_event,
    replay_key,
    signed_payload,
    verify,
)
from tests.unit.network_fixtures import APPLICATION_ID, SECRET, key_pair, vonage_settings

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BODY = b'{"uuid":"u1","status":"answered"}'
SETTINGS = vonage_settings()


def claims(**changes: Any) -> dict[str, Any]:
    base = {
        "iat": int(NOW.timestamp()), "jti": "j1", "iss": "Vonage", "api_key": "abcd1234",
        "application_id": APPLICATION_ID, "payload_hash": hashlib.sha256(BODY).hexdigest(),
    }  # fmt: skip
    return {k: v for k, v in (base | changes).items() if v is not None}


def bearer(secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    return "Bearer " + jwt.encode(claims(**changes), secret, algorithm=algorithm)


def check(authorization: str | None, body: bytes = BODY, **settings: Any) -> Any:
    return verify(authorization, "POST", body, [], vonage_settings(**settings), NOW)


def test_a_proper_webhook_is_accepted() -> None:
    found = check(bearer())
    assert (found.jti, found.api_key, found.application_id) == ("j1", "abcd1234", APPLICATION_ID)
    assert found.issued_at == NOW


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iat": int((NOW - timedelta(seconds=331)).timestamp())}, "too old"),
        ({"iat": int((NOW + timedelta(seconds=31)).timestamp())}, "future"),
        ({"iat": None}, "no iat"),
        ({"iat": "now"}, "iat"),
        ({"iat": 10**30}, "iat"),
        ({"exp": int((NOW - timedelta(seconds=31)).timestamp())}, "expired"),
        ({"nbf": int((NOW + timedelta(seconds=31)).timestamp())}, "not yet"),
        ({"api_key": "other"}, "api_key"),
        ({"application_id": "other"}, "application_id"),
        ({"payload_hash": "0" * 64}, "hash"),
        ({"payload_hash": 5}, "payload_hash"),
    ],
)
def test_refused_claims(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(WebhookRejected, match=reason):
        check(bearer(**changes))


def test_clock_skew_within_the_leeway_is_accepted() -> None:
    for seconds in (-329, 29):
        check(bearer(iat=int((NOW + timedelta(seconds=seconds)).timestamp())))
    check(bearer(aud="someone", exp=int((NOW - timedelta(seconds=29)).timestamp())))


def test_forged_tokens_are_refused() -> None:
    unsigned = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "none", "typ": "JWT"}, claims())
    )
    private, _ = key_pair()
    for authorization in (
        None, "", "Bearer", "Bearer ", f"Basic {bearer()[7:]}", "Bearer not.a.token", f"Bearer {unsigned}.",
        bearer(secret="x" * 40), bearer(algorithm="HS512"), bearer(secret=private, algorithm="RS256"),
        bearer()[:-3] + "AAA", "Bearer " + "a" * 5000, "Bearer \udce9.a.b",
    ):  # fmt: skip
        with pytest.raises(WebhookRejected):
            check(authorization)
    with pytest.raises(WebhookRejected, match="no signature secret"):
        check(bearer(), signature_secret=None)


def test_another_body_is_refused_and_a_missing_hash_when_required() -> None:
    with pytest.raises(WebhookRejected, match="hash"):
        check(bearer(), BODY + b" ")
    assert check(bearer(payload_hash=None)).payload_hash is None
    with pytest.raises(WebhookRejected, match="no payload hash"):
        check(bearer(payload_hash=None), require_payload_hash=True)
    check(bearer(payload_hash=hashlib.sha256(BODY).hexdigest().upper()), require_payload_hash=True)


def test_get_signs_the_query_in_its_order() -> None:
    items = [("to", "447700900000"), ("from", "44ü7"), ("uuid", "u 1")]
    payload = '{"to":"447700900000","from":"44ü7","uuid":"u 1"}'.encode()
    assert signed_payload("GET", b"ignored", items) == payload
    authorization = bearer(payload_hash=hashlib.sha256(payload).hexdigest())
    verify(authorization, "GET", b"", items, SETTINGS, NOW)
    with pytest.raises(WebhookRejected):
        verify(authorization, "GET", b"", items[::-1], SETTINGS, NOW)


def test_replay_key_is_the_token_or_else_the_body() -> None:
    signed, anonymous = check(bearer()), check(bearer(jti=None))
    assert replay_key(signed, BODY) == replay_key(signed, b"other") == "jti:j1"
    assert replay_key(anonymous, BODY) == replay_key(anonymous, BODY) != replay_key(anonymous, b"other")


@given(st.text(max_size=200), st.binary(max_size=50))
def test_any_header_is_a_verdict(header: str, body: bytes) -> None:
    for authorization in (header, f"Bearer {header}"):
        with pytest.raises(WebhookRejected):
            verify(authorization, "POST", body, [], SETTINGS, NOW)


def test_events_are_read_tolerantly() -> None:
    event = parse_event(
        b'{"from":"447700900001","to":"447700900000","uuid":"u1","conversation_uuid":"CON-1","status":"completed",'
        b'"direction":"outbound","timestamp":"2026-11-20T12:00:00.123Z","duration":12,"price":"0.01","rate":null,'
        b'"disconnected_by":"user","speech":{"x":1},"new_field":[1]}'
    )
    assert (event.from_, event.to, event.uuid) == ("+447700900001", "+447700900000", "u1")
    assert (event.duration, event.price, event.rate, event.disconnected_by) == ("12", "0.01", None, "user")
    assert event.occurred_at == datetime(2026, 11, 20, 12, 0, 0, 123000, tzinfo=UTC)
    assert not event.of_media_leg


def test_machine_events_name_the_call_in_another_field() -> None:
    assert parse_event(b'{"call_uuid":"u2","status":"human"}').uuid == "u2"
    assert parse_event(b'{"uuid":null,"call_uuid":"u2","status":"human"}').uuid == "u2"


def test_media_leg_events_and_queries() -> None:
    assert parse_event(b'{"uuid":"l1","to":"wss://host/media/x","status":"answered"}').of_media_leg
    event = parse_event(b"", [("to", "447700900000"), ("uuid", "u1"), ("region_url", "https://api-us-1.nexmo.com")])
    assert (event.to, event.region_url) == ("+447700900000", "https://api-us-1.nexmo.com")
    assert parse_event(b'{"timestamp":"yesterday"}').occurred_at is None


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"duration":' + b"9" * 5000 + b"}"])
def test_malformed_bodies(body: bytes) -> None:
    with pytest.raises(MalformedEvent):
        parse_event(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["uuid", "call_uuid", "status", "to", "from", "timestamp", "duration", "price", "x"])


@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_any_json_object_is_an_event(document: dict[str, Any]) -> None:
    event = parse_event(json.dumps(document).encode())
    assert event.uuid is None or isinstance(event.uuid, str)
    assert event.of_media_leg in (True, False)
    _ = event.occurred_at
