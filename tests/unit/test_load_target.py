"""Who the load tests' users are: an API key of this machine is for the platform of this machine only."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from load_tests.swarm import target
from load_tests.swarm.target import Account, Target, find_api_key
from serve_app.local_services import SIMULATED_NETWORK_FILE

HERE = "http://127.0.0.1:9001"


@pytest.fixture(name="minted", autouse=True)
def fixture_minted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The platform of this machine runs with simulators at HERE. What is returned lists the keys made."""
    minted: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        minted.append(command)
        return SimpleNamespace(returncode=0, stdout="a log line\nkey-of-an-hour\n")

    monkeypatch.delenv("PARLEY_API_KEY", raising=False)
    monkeypatch.setenv("PARLEY_DATA_DIR", str(tmp_path))
    (tmp_path / SIMULATED_NETWORK_FILE).write_text(json.dumps({"simulators_url": HERE}))
    monkeypatch.setattr(subprocess, "run", run)
    return minted


def a_target(simulators_url: str | None) -> Target:
    account = Account("key", "application", "secret")
    return Target("http://platform", account, "+12015550100", announce_url=simulators_url, fixed_wait_ms=None)


def test_a_key_is_made_for_the_platform_of_this_machine(minted: list[list[str]]) -> None:
    assert find_api_key(None, a_target(HERE)) == "key-of-an-hour"
    assert len(minted) == 1


@pytest.mark.parametrize("simulators_url", [None, "http://10.0.0.7:9001"])
def test_elsewhere_none_is_made(simulators_url: str | None, minted: list[list[str]]) -> None:
    assert find_api_key(None, a_target(simulators_url)) is None
    assert minted == []


def test_a_key_that_is_given_is_taken_everywhere(minted: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_api_key("given", a_target(None)) == "given"
    monkeypatch.setenv("PARLEY_API_KEY", "from-the-environment")
    assert find_api_key("", a_target(None)) == "from-the-environment"
    assert minted == []


def test_without_simulators_or_an_account_nobody_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VONAGE_API_KEY", "VONAGE_APPLICATION_ID", "VONAGE_SIGNATURE_SECRET"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(target.TargetError, match="VONAGE_API_KEY"):
        target._account(None)
