"""System c: Pipecat with its own transport, serializer and services, as its own project with its own lock."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load_tests.callbench.scenario import AGENT, OPENING
from load_tests.callbench.systems.base import Place
from load_tests.callbench.systems.one_process import OneProcess
from serve_app.errors import SettingsError

PROJECT = Path(__file__).resolve().parents[2] / "peers" / "pipecat"


class Pipecat(OneProcess):
    """`load_tests/peers/pipecat`, run by the interpreter of its own environment."""

    name = "pipecat"
    working_directory = PROJECT
    _python = PROJECT / ".venv" / "bin" / "python"

    def command(self, place: Place) -> Sequence[str]:
        if not self._python.exists():
            raise SettingsError(f"{PROJECT} has no environment yet; see its README for the one set-up command")
        command = [str(self._python), "server.py", "--port", "0", "--simulators-url", place.simulators_url]
        return [*command, "--system-prompt", AGENT["system_prompt"], "--greeting", OPENING]

    def about(self) -> dict[str, Any]:
        return {**super().about(), "versions": self._versions()}

    def _versions(self) -> dict[str, str]:
        names = ("pipecat-ai", "uvicorn", "uvloop", "websockets", "fastapi")
        code = f"import importlib.metadata as m; print(*(f'{{n}}={{m.version(n)}}' for n in {names!r}))"
        done = subprocess.run([str(self._python), "-c", code], capture_output=True, text=True, timeout=30, check=False)
        return dict(pair.split("=", 1) for pair in done.stdout.split())
