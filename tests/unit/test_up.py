"""`parley up` where it cannot start: each is told before Ray is started, with what to do."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.cli.platform import port_is_free


def refused(*arguments: str, **variables: str) -> str:
    """What `parley up` says on stderr, in one line. It must fail, without a traceback."""
    done = CliRunner().invoke(app, ["up", *arguments], env=variables)
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_a_taken_port_is_an_error_that_names_the_holder() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free(port)
        told = refused("--port", str(port))
    assert f"port {port} is taken by process {os.getpid()}" in told
    assert "--port" in told


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("REDIS_URL", "redis://127.0.0.1:1", "redis://127.0.0.1:1"),
        ("DATABASE_URL", "postgresql://u:secret@127.0.0.1:1/parley", "DATABASE_URL"),
    ],
)
def test_a_service_that_is_away_is_a_clear_error(variable: str, value: str, named: str) -> None:
    told = refused("--port", "0", **{variable: value})
    assert named in told
    assert "secret" not in told


def test_a_real_network_with_simulated_providers_does_not_start() -> None:
    keys = {f"VONAGE_{name}": "x" for name in ("APPLICATION_ID", "PRIVATE_KEY", "SIGNATURE_SECRET")}
    told = refused("--port", "0", VONAGE_FROM_NUMBER="+12015550100", **keys)
    assert "real people must not hear a stand-in" in told


def test_a_second_platform_on_the_same_data_is_refused_by_its_lock(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "platform.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        variables = {**os.environ, "PARLEY_DATA_DIR": str(tmp_path / "data")}
        done = subprocess.run(
            [sys.executable, "-m", "serve_app.local_services"],
            env=variables, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "another Parley platform uses" in json.loads(done.stdout)["error"]
