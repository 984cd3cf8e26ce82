"""System c: Pipecat with its own transport, serializer and services, as its own project with its own lock."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.callbench.child import PinnedChild
from load_tests.callbench.processes import ProcessTree, one_group
from load_tests.callbench.scenario import AGENT, OPENING, SAMPLE_RATE_HZ
from load_tests.callbench.systems.base import Lag, Place
from serve_app.errors import SettingsError

GROUP = "server"
PROJECT = Path(__file__).resolve().parents[2] / "peers" / "pipecat"


class Pipecat:
    """Implements `System`."""

    name = "pipecat"

    def __init__(self, project: Path = PROJECT) -> None:
        self._project = project
        self._child: PinnedChild | None = None
        self._url = ""

    @property
    def groups(self) -> Sequence[str]:
        return (GROUP,)

    def start(self, place: Place) -> None:
        python = self._project / ".venv" / "bin" / "python"
        if not python.exists():
            raise SettingsError(f"{self._project} has no environment yet; see its README for the one set-up command")
        command = [str(python), "server.py", "--port", "0", "--simulators-url", place.simulators_url]
        command += ["--system-prompt", AGENT["system_prompt"], "--greeting", OPENING]
        self._child = PinnedChild(
            command,
            name="pipecat",
            core=place.core,
            mark=place.mark,
            folder=place.folder,
            classify=one_group(GROUP),
            environment={"OMP_NUM_THREADS": "1"},
            working_directory=self._project,
        )
        try:
            self._url = self._child.ready_line()["websocket_url"]
        except BaseException:
            self.stop()
            raise

    def tree(self) -> ProcessTree:
        assert self._child is not None, "start first"
        return self._child.tree

    def opening(self) -> dict[str, Any]:
        return {"kind": "socket", "uri": self._url, "sample_rate_hz": SAMPLE_RATE_HZ, "headers": {}}

    def loop_lag(self) -> Mapping[str, Lag]:
        return {}  # a peer runs as it is: nothing of ours inside

    def about(self) -> dict[str, Any]:
        return {"processes": 1, "versions": self._versions(), "journal": "none", "recording": "none"}

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def _versions(self) -> dict[str, str]:
        python = self._project / ".venv" / "bin" / "python"
        names = ("pipecat-ai", "uvicorn", "uvloop", "websockets", "fastapi")
        code = f"import importlib.metadata as m; print(*(f'{{n}}={{m.version(n)}}' for n in {names!r}))"
        done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=30, check=False)
        return dict(pair.split("=", 1) for pair in done.stdout.split())
