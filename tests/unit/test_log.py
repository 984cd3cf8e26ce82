"""Logs: JSON lines in which no phone number and no secret can be read."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from serve_app.log import configure_logging, mask, scrub
from serve_app.settings import LogSettings
from tests.unit.api_support import TO, Plane

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")


def test_a_number_keeps_its_last_four_digits() -> None:
    assert mask("+12025550123") == "***0123"
    assert mask("911") == "***"


@given(
    st.integers(min_value=10**9, max_value=10**15 - 1),
    st.sampled_from(["{}", "to {} failed", '"{}"', "({})", "it called {}.", "{}: busy", "tel:{}", "sip:{}@x"]),
)
def test_every_number_in_a_text_is_masked(number: int, frame: str) -> None:
    for form in (f"+{number}", str(number)):
        text = scrub(frame.format(form))
        assert str(number) not in text
        assert str(number)[-4:] in text


def test_ids_times_and_amounts_stay_readable() -> None:
    for text in (
        "0198c0f1-1234-7abc-8def-123456789012",
        "2026-11-20T10:00:00.123456+00:00",
        "12.3456789012 ms",
        "took 1500 ms",
        "default:0198c0f1-1234-7abc-8def-123456789012",
    ):
        assert scrub(text) == text


def test_secrets_are_removed() -> None:
    text = scrub(
        "Authorization: Bearer abcdefgh12345678 key pk_AbCdEfGh123456789 "
        "GET /media/call-1/s3cr3t-token?x=1 /webhooks/vonage/event?tenant=t&attempt=a&sig=Zm9vYmFy"
    )
    for secret in ("abcdefgh12345678", "AbCdEfGh", "s3cr3t", "Zm9vYmFy"):
        assert secret not in text


def test_lines_are_json_masked_everywhere_even_in_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    log = structlog.get_logger("test")
    log.info("placing", to=TO, nested={"numbers": [TO, {"a": TO}]}, count=3, call_id="c1")
    logging.getLogger("a.library").warning("calling %s with Bearer %s", TO, "abcdefgh12345678")
    try:
        raise ValueError(f"cannot call {TO}")
    except ValueError:
        log.exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == 3
    text = json.dumps(lines)
    assert TO not in text
    assert TO[1:] not in text
    assert "abcdefgh12345678" not in text
    assert lines[0]["nested"] == {"numbers": ["***0123", {"a": "***0123"}]}
    assert (lines[0]["count"], lines[0]["call_id"], lines[0]["level"]) == (3, "c1", "info")
    assert lines[1]["logger"] == "a.library"
    assert "ValueError: cannot call ***0123" in lines[2]["exception"]


async def test_a_request_logs_its_route_and_never_its_path_or_query(
    plane: Plane, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings())
    call = await plane.place()
    await plane.http.get(
        f"/api/v1/calls/{call['id']}?secret=abc", headers=plane.auth | {"X-Request-Id": "my-request-1"}
    )
    await plane.http.post("/webhooks/vonage/event?tenant=default&attempt=x&sig=wrong-signature")
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["route"] for line in requests] == [
        "/api/v1/calls",
        "/api/v1/calls/{call_id}",
        "/webhooks/vonage/event",
    ]
    assert requests[1]["request_id"] == "my-request-1"
    for hidden in (TO, TO[1:], plane.key, "secret", "wrong-signature"):
        assert hidden not in text


def test_the_console_form_is_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(json_lines=False))
    structlog.get_logger().info("placing", to=TO)
    assert TO not in capsys.readouterr().err
