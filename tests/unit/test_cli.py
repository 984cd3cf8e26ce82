"""The command line: every error says what to do, and none is a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from serve_app.cli.client import ApiClient, ApiError, SimulatorClient
from serve_app.cli.main import app
from serve_app.cli.platform import DRAINING_S, DRAINING_VARIABLE, Platform, _interruptible_children, free_port
from serve_app.paths import serve_config

AGENT = Path(__file__).parents[2] / "configs" / "agents" / "riverside-dental.yaml"


@pytest.fixture(name="data_dir", autouse=True)
def fixture_data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PARLEY_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: x\nbusines: y\n", "busines: unknown field; did you mean 'business'?"),
        (b"name: x\n", "opening: this field is missing"),
        (b"- a\n- b\n", "expected the fields of one agent"),
        (b"", "expected the fields of one agent"),
        (b"a: [\n", "not valid YAML"),
        (b"\x80\xff", "not a text file in UTF-8"),
    ],
)
def test_a_bad_agent_file_is_refused_with_a_reason(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "agent[1].yaml"
    file.write_bytes(content)
    code, output = run("agent", "apply", str(file))
    assert code == 1
    assert told in output
    assert "agent[1].yaml" in output, "a name in brackets is no markup"


def test_an_agent_before_the_first_start_names_the_missing_schema() -> None:
    code, output = run("agent", "apply", str(AGENT))
    assert (code, "parley db upgrade" in output) == (1, True)
    assert run("db", "upgrade")[0] == 0
    code, output = run("agent", "apply", str(AGENT))
    assert (code, output.split()) == (0, ["riverside-dental", "version", "1"])


def test_a_data_folder_that_cannot_be_made_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARLEY_DATA_DIR", str(tmp_path / "file" / "data"))
    code, output = run("db", "upgrade")
    assert code == 1
    assert str(tmp_path / "file") in output
    assert "set PARLEY_DATA_DIR" in run("doctor")[1]


def test_doctor_tells_a_half_set_vonage_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VONAGE_APPLICATION_ID", "app")
    output = run("doctor")[1]
    assert "only partly set" in output
    assert "VONAGE_SIGNATURE_SECRET" in output


@pytest.mark.parametrize("name", ["--wav", "--config"])
def test_a_folder_is_no_file(tmp_path: Path, name: str) -> None:
    code, output = run("call" if name == "--wav" else "up", name, str(tmp_path))
    assert code == 2
    assert "is a directory" in output


async def test_a_platform_that_went_away_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with ApiClient(url, "pk_x") as api, SimulatorClient(url) as network:
        for request in (api.get("/x"), api.find("/x"), api.post("/x"), network.call("c"), network.set_callee("+1", {})):
            with pytest.raises(ApiError, match=f"{url} does not answer"):
                await request
        with pytest.raises(ApiError, match=f"{url} does not answer"):
            async for _ in api.events("c"):
                pass


@pytest.mark.parametrize(
    ("configured", "local"), [("https://calls.example.com", False), ("http://127.0.0.1:8000", True)]
)
def test_the_public_address_is_kept_and_a_local_one_follows_the_port(
    monkeypatch: pytest.MonkeyPatch, configured: str, local: bool
) -> None:
    monkeypatch.setenv("PUBLIC_URL", configured)
    platform = Platform(port=None)
    try:
        given = platform._environment().get("PARLEY_SERVER__PUBLIC_URL")
    finally:
        platform.stop()
    assert given == (platform.url if local else None)


def test_a_platform_of_this_machine_waits_for_no_other_load_balancer_when_it_stops(tmp_path: Path) -> None:
    def draining_s(template: Path | None) -> str:
        platform = Platform(port=None, config=template)
        try:
            return str(platform._config()["controller_options"]["runtime_env"]["env_vars"][DRAINING_VARIABLE])
        finally:
            platform.stop()

    changed = yaml.safe_load(serve_config().read_text())
    changed["controller_options"]["runtime_env"]["env_vars"][DRAINING_VARIABLE] = "15"
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
    assert draining_s(None) == DRAINING_S
    assert draining_s(tmp_path / "changed.yaml") == "15", "what its owner wrote stays"


def test_what_a_background_job_starts_can_be_interrupted() -> None:
    asks = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _interruptible_children():
            inside = subprocess.run(asks, capture_output=True, text=True, check=True).stdout
        outside = subprocess.run(asks, capture_output=True, text=True, check=True).stdout
    finally:
        signal.signal(signal.SIGINT, before)
    assert (inside.strip(), outside.strip()) == ("False", "True")


def test_the_do_not_call_list() -> None:
    assert run("db", "upgrade")[0] == 0
    code, output = run("do-not-call", "add", "202 555 0123", "--reason", "by letter")
    assert (code, "country code" in output) == (1, True)
    assert run("do-not-call", "add", "+1 202 555 0123", "--reason", "by [letter]")[0] == 0
    assert "+12025550123" in (listed := run("do-not-call", "list")[1])
    assert "by [letter]" in listed
    assert run("do-not-call", "remove", "+12025550123")[0] == 2, "a reason must be given"
    code, output = run("do-not-call", "remove", "+12025550123", "--reason", " ")
    assert (code, "--reason is empty" in output) == (1, True)
    assert run("do-not-call", "remove", "+12025550123", "--reason", "agreed anew")[0] == 0
    assert "+12025550123" not in run("do-not-call", "list")[1]
    narrow = CliRunner().invoke(app, ["do-not-call", "list", "--removed"], env={"COLUMNS": "60"}).output
    for output in (narrow, run("do-not-call", "list", "--removed")[1]):
        assert "agreed anew" in output and "by [letter]" in output and "…" not in output
    code, output = run("do-not-call", "remove", "+12025550123", "--reason", "agreed anew")
    assert (code, "is not on the do-not-call list" in output) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--leads", "3"), "go with --campaign"),
        (("--hours", "1"), "go with --campaign"),
        (("--campaign", "--play"), "--play goes with"),
        (("--campaign", "--leads", "0"), "--leads"),
    ],
)
def test_options_of_the_other_demonstration_are_refused(arguments: tuple[str, ...], told: str) -> None:
    code, output = run("demo", *arguments)
    assert code == 2 and told in output
