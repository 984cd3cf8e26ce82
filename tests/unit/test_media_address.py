"""Where the phone network is told to open its media socket."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pydantic import AnyHttpUrl
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.cli.platform import StartError, choose_ports, free_port
from serve_app.errors import SettingsError
from serve_app.media_address import describe_media, media_uri
from serve_app.settings import ServerSettings, Settings, load_settings


def settings(**server: Any) -> Settings:
    return Settings(server=ServerSettings.model_validate(server))


@pytest.mark.parametrize(
    ("server", "uri"),
    [
        ({}, "ws://127.0.0.1:8001/media/c"),
        ({"public_url": "http://localhost:9000", "media_port": 9001}, "ws://127.0.0.1:9001/media/c"),
        ({"media_host": "0.0.0.0"}, "ws://127.0.0.1:8001/media/c"),
        ({"media_host": "::1"}, "ws://[::1]:8001/media/c"),
        ({"media_port": None}, "ws://127.0.0.1:8000/media/c"),
        ({"public_url": "https://calls.example.com"}, "wss://calls.example.com/media/c"),
        ({"public_url": "http://10.0.0.7:8000"}, "ws://10.0.0.7:8000/media/c"),
        (
            {"public_url": "https://calls.example.com", "media_url": "wss://media.example.com/"},
            "wss://media.example.com/media/c",
        ),
    ],
)
def test_where_a_call_goes(server: dict[str, Any], uri: str) -> None:
    assert media_uri(settings(**server), "c") == uri


def test_whoever_goes_through_the_proxy_hears_what_is_cheaper() -> None:
    assert describe_media(settings()) == {"url": "ws://127.0.0.1:8001", "through_proxy": False}
    tunnel = describe_media(settings(public_url="https://calls.example.com"))
    assert tunnel["through_proxy"] and "send /media to port 8001" in tunnel["advice"]
    led = settings(public_url="https://calls.example.com", media_url="wss://calls.example.com")
    assert describe_media(led) == {"url": "wss://calls.example.com", "through_proxy": False}
    off = describe_media(settings(media_port=None))
    assert off["through_proxy"] and "set MEDIA_PORT" in off["advice"]


def test_the_environment_may_close_the_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().server.media_port == 8001
    monkeypatch.setenv("PARLEY_SERVER__MEDIA_PORT", "")
    assert load_settings().server.media_port is None
    monkeypatch.setenv("PARLEY_SERVER__MEDIA_PORT", "70000")
    with pytest.raises(SettingsError, match=r"server\.media_port"):
        load_settings()


def test_doctor_says_where_media_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    def doctor() -> str:
        return CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"}).output

    assert "ws://127.0.0.1:8001, to the ingress' own listener" in doctor()
    monkeypatch.setenv("PUBLIC_URL", "https://calls.example.com")
    assert "through Serve's proxy" in doctor()
    monkeypatch.setenv("PARLEY_SERVER__MEDIA_PORT", "")
    monkeypatch.setenv("MEDIA_URL", "wss://media.example.com")
    assert "server.media_port is empty" in doctor()


@pytest.fixture(name="taken")
def fixture_taken() -> Any:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def server_at(http: int, media: int | None, **more: Any) -> ServerSettings:
    return ServerSettings(public_url=AnyHttpUrl(f"http://127.0.0.1:{http}"), media_port=media, **more)


def test_a_platform_takes_the_configured_media_port_and_passes_it_on() -> None:
    http, media = free_port(), free_port()
    ports = choose_ports(http, server_at(http, media))
    assert (ports.media, ports.variables()["PARLEY_SERVER__MEDIA_PORT"]) == (media, str(media))
    off = choose_ports(http, server_at(http, None))
    assert off.media is None and "PARLEY_SERVER__MEDIA_PORT" not in off.variables()


def test_a_second_platform_on_this_machine_takes_another_media_port(taken: int) -> None:
    http = free_port()
    assert choose_ports(http, server_at(http, taken)).media not in (None, taken)
    free = free_port()
    assert choose_ports(None, server_at(http, free)).media not in (None, free)


def test_a_media_port_that_others_know_must_be_free(taken: int) -> None:
    server = ServerSettings(public_url=AnyHttpUrl("https://calls.example.com"), media_port=taken)
    with pytest.raises(StartError, match=rf"port {taken} \(server\.media_port\) is taken by .*MEDIA_PORT"):
        choose_ports(None, server)
