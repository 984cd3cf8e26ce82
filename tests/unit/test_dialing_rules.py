"""A network is simulated or real; numbers are parsed to one form; a link's signature covers all of it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.dialing.carrier_status import ANSWERED, RINGING, TERMINAL, ending_of
from serve_app.dialing.links import AttemptLinks, AttemptRef
from serve_app.dialing.network import network_is_simulated
from serve_app.dialing.numbers import InvalidNumberError, parse_e164
from serve_app.errors import SettingsError
from serve_app.settings import Settings
from serve_app.telephony.vonage.snapshot import TERMINAL_STATUSES
from tests.unit.api_support import make_settings


@pytest.mark.parametrize(
    ("text", "e164"),
    [
        ("+12025550123", "+12025550123"),
        (" +1 (202) 555-0123 ", "+12025550123"),
        ("+44 7700 900000", "+447700900000"),
        ("+49 30 1234567", "+49301234567"),
    ],
)
def test_numbers_are_brought_to_e164(text: str, e164: str) -> None:
    assert parse_e164(text) == e164


@given(st.text(max_size=40))
def test_any_text_is_a_number_or_a_clear_refusal(text: str) -> None:
    try:
        number = parse_e164(text)
    except InvalidNumberError as error:
        assert error.remedy
    else:
        assert number.startswith("+")
        assert number[1:].isascii()
        assert number[1:].isdigit()
        assert parse_e164(number) == number


@pytest.mark.parametrize(
    ("url", "simulated"),
    [
        ("http://127.0.0.1:4001", True),
        ("http://localhost:4001", True),
        ("https://api.nexmo.com", False),
        ("http://api.nexmo.com", False),
        ("https://127.0.0.1", False),
        ("http://10.0.0.1", False),
        ("http://127.0.0.1.example.com", False),
    ],
)
def test_only_this_machine_is_a_simulated_network(url: str, simulated: bool) -> None:
    assert network_is_simulated(make_settings(url)) is simulated


def test_in_production_no_address_makes_the_network_a_simulated_one() -> None:
    """A sidecar on loopback passes requests on to the real network."""
    settings = make_settings("http://127.0.0.1:4001", mode="production")
    assert not network_is_simulated(settings)


def test_without_vonage_keys_the_network_is_simulated() -> None:
    assert network_is_simulated(Settings())


def test_links_need_a_secret() -> None:
    with pytest.raises(SettingsError, match="VONAGE_SIGNATURE_SECRET"):
        AttemptLinks(Settings())


@given(st.text(max_size=10), st.text(max_size=10), st.text(max_size=10), st.text(max_size=10))
def test_a_links_signature_fits_no_other_attempt(tenant: str, attempt: str, tenant2: str, attempt2: str) -> None:
    links = AttemptLinks(make_settings())
    ref = AttemptRef(tenant, attempt)
    signature = links.answer_url(ref).rpartition("sig=")[2]
    assert links.check(tenant, attempt, signature) == ref
    if (tenant, attempt) != (tenant2, attempt2):
        assert links.check(tenant2, attempt2, signature) is None


def test_every_terminal_status_ends_a_call_and_no_other_does() -> None:
    for status, answered in itertools.product(TERMINAL, (True, False)):
        assert ending_of(status, answered=answered) is not None
    for status in RINGING | ANSWERED | {"disconnected", "whatever"}:
        assert ending_of(status, answered=True) is None
    # `disconnected` is the end of a websocket leg, not of a call.
    assert {"disconnected"} == TERMINAL_STATUSES - TERMINAL
