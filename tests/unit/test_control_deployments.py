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
from deployments.dialer import Dialer
from deployments.sessions import CallSessions


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
    await control_api._tell(handle.wake)
    assert time.monotonic() - began < 5


class Told:
    """A deployment handle that notes what it was asked."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self._name, self._asked = name, asked

    def __getattr__(self, method: str) -> Any:
        async def remote(*arguments: str) -> None:
            self._asked.append(" ".join((self._name, method, *arguments)))

        return SimpleNamespace(remote=remote)


async def test_the_end_of_a_call_wakes_the_workers_and_the_dialer() -> None:
    asked: list[str] = []
    by_name: dict[str, Any] = {name: Told(name, asked) for name in ("dialer", "workers")}
    await control_api._call_ended(by_name["dialer"], by_name["workers"])
    assert sorted(asked) == ["dialer wake", "workers wake"]

    asked.clear()
    deployment: Any = CallSessions
    replica = object.__new__(deployment.func_or_class)
    replica._told, replica._waking = list(by_name.values()), set()
    released: list[object] = []

    async def let_go(call: object) -> None:
        assert asked == [], "the slot is free before anybody asks for it"
        released.append(call)

    replica._beats = SimpleNamespace(let_go=let_go)
    await replica._let_go("call")
    await asyncio.gather(*replica._waking)
    assert (released, sorted(asked)) == (["call"], ["dialer wake", "workers wake"])


async def test_the_dialer_forgets_halts_only_of_the_tenant_who_changed_something() -> None:
    asked: list[str] = []
    deployment: Any = Dialer
    replica = SimpleNamespace(
        _core=SimpleNamespace(wake=lambda: asked.append("core wake")),
        _feeder=SimpleNamespace(
            wake=lambda: asked.append("feeder wake"), changed=lambda tenant: asked.append(f"feeder changed {tenant}")
        ),
    )
    await deployment.func_or_class.wake(replica)
    await deployment.func_or_class.changed(replica, "acme")
    assert asked == ["core wake", "feeder wake", "core wake", "feeder changed acme"]


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
