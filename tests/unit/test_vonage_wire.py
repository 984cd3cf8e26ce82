"""Vonage's media protocol: exact frames, tolerated surprises, marks that come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.providers.base import AudioFormat
from serve_app.telephony.base import (
    AudioReceived,
    DtmfReceived,
    Leg,
    LegConnected,
    LegFault,
    PlaybackCleared,
    PlaybackConfirmed,
)
from serve_app.telephony.vonage import ncco
from serve_app.telephony.vonage.numbers import from_wire, to_wire
from serve_app.telephony.vonage.wire import MAX_TEXT_CHARS, VonageLeg

EVENTS = LegConnected | AudioReceived | DtmfReceived | PlaybackConfirmed | PlaybackCleared | LegFault


def connected(rate: int = 16000, **headers: Any) -> str:
    return json.dumps({"event": "websocket:connected", "content-type": f"audio/l16;rate={rate}", **headers})


def open_leg(rate: int = 16000) -> VonageLeg:
    leg = VonageLeg()
    leg.receive(connected(rate))
    return leg


@pytest.mark.parametrize(("rate", "size"), [(8000, 320), (16000, 640), (24000, 960)])
def test_the_first_frame_sets_format_and_frame_size(rate: int, size: int) -> None:
    leg: Leg = VonageLeg()
    (event,) = leg.receive(connected(rate, call_id="c1", attempt=3, tags=["a"]))
    assert event == LegConnected(AudioFormat("linear16", rate), {"call_id": "c1", "attempt": "3", "tags": '["a"]'})
    assert leg.frame_bytes == size and leg.audio.sample_rate_hz == rate
    frame = bytes(range(256)) * 4
    assert leg.receive(frame[:size]) == [AudioReceived(frame[:size])]
    assert leg.play(frame[:size]) == frame[:size]


@pytest.mark.parametrize(
    "text",
    [
        '{"event":"websocket:notify","payload":{"mark":"1-1"}}',
        '{"event":"websocket:dtmf","digit":"5"}',
        '{"event":"websocket:cleared"}',
        '{"dtmf":{"digit":"5"}}',
    ],
)
def test_nothing_happens_on_a_call_before_its_connected_frame(text: str) -> None:
    leg = VonageLeg()
    assert leg.receive(text) == [LegFault("text before the connected frame")]
    assert isinstance(leg.receive(connected())[0], LegConnected)


@given(st.sampled_from([8000, 16000, 24000]), st.binary(max_size=2000))
def test_only_exact_frames_are_audio(rate: int, message: bytes) -> None:
    leg = open_leg(rate)
    (event,) = leg.receive(message)
    if len(message) == leg.frame_bytes:
        assert event == AudioReceived(message) and leg.play(message) == message
        return
    assert isinstance(event, LegFault)
    with pytest.raises(ValueError, match="a frame is"):
        leg.play(message)


@given(st.lists(st.binary(min_size=640, max_size=640), max_size=20))
def test_frames_pass_unchanged_and_in_order(frames: list[bytes]) -> None:
    leg = open_leg()
    assert [leg.receive(frame) for frame in frames] == [[AudioReceived(frame)] for frame in frames]
    assert [leg.play(frame) for frame in frames] == frames


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    ["websocket:connected", "websocket:dtmf", "websocket:notify", "websocket:cleared", "websocket:media:update",
     "websocket:disconnected", "websocket:later"]
)  # fmt: skip
DOCUMENTS = st.builds(
    lambda event, rest: rest | {"event": event},
    KNOWN,
    st.dictionaries(st.sampled_from(["digit", "duration", "payload", "content-type", "dtmf", "call_id"]), JSON),
)
MESSAGES = st.binary(max_size=700) | st.text(max_size=200) | JSON.map(json.dumps) | DOCUMENTS.map(json.dumps)


@given(st.lists(MESSAGES, max_size=20))
def test_no_sequence_of_messages_raises(messages: list[bytes | str]) -> None:
    leg = VonageLeg()
    for message in messages:
        for event in leg.receive(message):
            assert isinstance(event, EVENTS)
            if isinstance(event, LegFault):
                assert len(event.reason) < 200
    assert leg.frame_bytes in (320, 640, 960)


@pytest.mark.parametrize(
    "text",
    ["not json", "", "[]", "3", "null", "{}", '{"event": 5}', '{"event": "websocket:later"}', "[" * 100_000,
     '{"event":"websocket:media:update","method":"update","active":true}', '{"event":"websocket:disconnected"}',
     '{"event":"websocket:notify"}', '{"event":"websocket:notify","payload":{"other":1}}',
     '{"event":"websocket:dtmf"}', '{"event":"websocket:dtmf","digit":"55"}', '{"event":"websocket:dtmf","digit":10}',
     "9" * 5000, '"' + "a" * MAX_TEXT_CHARS + '"'],
)  # fmt: skip
def test_unexpected_text_is_a_fault(text: str) -> None:
    (event,) = open_leg().receive(text)
    assert isinstance(event, LegFault)


def test_faults_of_the_first_frame() -> None:
    leg = VonageLeg()
    assert isinstance(leg.receive(bytes(640))[0], LegFault)  # audio before it
    for content_type in (None, 5, "audio/l16", "audio/l16;rate=44100", "audio/mulaw;rate=8000"):
        text = json.dumps({"event": "websocket:connected", "content-type": content_type})
        assert isinstance(leg.receive(text)[0], LegFault)
    assert isinstance(leg.receive(connected(8000))[0], LegConnected)
    assert isinstance(leg.receive(connected(16000))[0], LegFault)
    assert leg.frame_bytes == 320
    with pytest.raises(ValueError, match="44100"):
        VonageLeg(44100)


@pytest.mark.parametrize(
    ("document", "event"),
    [
        ({"event": "websocket:dtmf", "digit": "5", "duration": 260}, DtmfReceived("5", 260)),
        ({"event": "websocket:dtmf", "digit": "#"}, DtmfReceived("#", None)),
        ({"event": "websocket:dtmf", "digit": 0, "duration": "x"}, DtmfReceived("0", None)),
        ({"dtmf": {"digit": "*", "duration": 100}}, DtmfReceived("*", 100)),
        ({"event": "websocket:cleared"}, PlaybackCleared()),
    ],
)
def test_known_events(document: dict[str, Any], event: object) -> None:
    assert open_leg().receive(json.dumps(document)) == [event]


@given(st.text(max_size=100))
def test_marks_round_trip(mark: str) -> None:
    leg = open_leg()
    sent = json.loads(leg.mark(mark))
    assert sent["action"] == "notify"
    back = json.dumps({"event": "websocket:notify", "payload": sent["payload"]})
    assert leg.receive(back) == [PlaybackConfirmed(mark)]
    assert json.loads(leg.clear()) == {"action": "clear"}


def test_connect_is_the_last_action_and_carries_the_token() -> None:
    (action,) = ncco.connect_websocket(
        "wss://h/media/c1", rate=16000, headers={"call_id": "c1"}, token="t", event_url="https://h/e"
    )
    assert action["action"] == "connect"
    assert action["endpoint"] == [
        {"type": "websocket", "uri": "wss://h/media/c1", "content-type": "audio/l16;rate=16000",
         "headers": {"call_id": "c1"}, "authorization": {"type": "custom", "value": "Bearer t"}}
    ]  # fmt: skip
    (plain,) = ncco.connect_websocket("wss://h/m/t", rate=8000, headers={}, token=None, event_url=None)
    assert "authorization" not in str(plain) and "eventUrl" not in plain


def test_ncco_limits() -> None:
    at_limit = {"a": "x" * (512 - len(json.dumps({"a": ""})))}
    ncco.connect_websocket("wss://h", rate=16000, headers=at_limit, token=None, event_url=None)
    with pytest.raises(ValueError, match="512"):
        ncco.connect_websocket("wss://h", rate=16000, headers=at_limit | {"b": ""}, token=None, event_url=None)
    with pytest.raises(ValueError, match="Hz"):
        ncco.connect_websocket("wss://h", rate=44100, headers={}, token=None, event_url=None)
    assert ncco.talk("Sorry.")[0]["text"] == "Sorry."
    for text in ("", "x" * 1501):
        with pytest.raises(ValueError, match="characters"):
            ncco.talk(text)


@given(st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True))
def test_numbers_round_trip(number: str) -> None:
    assert from_wire(to_wire(number)) == number
    assert from_wire("anonymous") == "anonymous"
