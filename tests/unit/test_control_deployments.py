"""What the control deployments add to the application: bounded wake-ups, and work given back at the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.exceptions import RayServeException

from deployments import app, control_api, local_services, workers
from deployments.config import AppArgs


class Handle:
    """A deployment handle whose deployment has no replica."""

    @property
    def wake(self) -> Handle:
        return self

    async def remote(self) -> None:
        await asyncio.sleep(60)


async def test_a_request_does_not_wait_for_a_dialer_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_api, "WAKE_TIMEOUT_S", 0.05)
    began = time.monotonic()
    handle: Any = Handle()
    await control_api._wake(handle)
    assert time.monotonic() - began < 5


async def test_workers_that_stop_end_their_loops_in_order() -> None:
    replica: Any = SimpleNamespace()  # a real one would be destroyed once more by Python
    given_back = asyncio.Event()

    async def loop() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            given_back.set()

    replica._background = [asyncio.create_task(loop())]
    await asyncio.sleep(0)
    destroy: Any = workers.Workers.func_or_class.__del__  # type: ignore[attr-defined]
    await destroy(replica)
    assert given_back.is_set()


def test_local_services_that_ended_are_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    popen = subprocess.Popen
    script = "import sys; print('{}', flush=True); sys.stdin.read()"
    monkeypatch.setattr(
        subprocess, "Popen", lambda _command, **options: popen([sys.executable, "-c", script], **options)
    )
    actor = local_services._LocalServicesActor(None)
    assert actor.endpoints() == {}
    actor.stop()
    assert "ended with code 0" in str(actor.endpoints()["error"])


def test_wrong_settings_are_told_by_the_error_after_which_serve_does_not_build_again(tmp_path: Path) -> None:
    (tmp_path / "parley.yaml").write_text("mode: local\nservr: {}\n")
    with pytest.raises(RayServeException, match=r"(?s)SettingsError: .*servr: unknown key"):
        app.control(AppArgs(config=tmp_path / "parley.yaml"))
