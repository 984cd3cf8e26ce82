"""A program that runs on one core: started pinned, ready when it prints a line of JSON, ended with its whole tree."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.callbench.processes import Classify, ProcessTree, end_all
from serve_app.errors import UnavailableError

READY_S = 60.0
MARK = "CALLBENCH_RUN"
"""The environment variable that every process of a run carries, so that none is missed and none is left behind."""
_PR_SET_PDEATHSIG = 1


class PinnedChild:
    """A process that may run on one core only, with everything that it starts."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str,
        core: int,
        mark: str,
        folder: Path,
        classify: Classify,
        environment: Mapping[str, str] | None = None,
        working_directory: Path | None = None,
    ) -> None:
        """`mark`: the run's value of `MARK`. `folder`: where its standard error goes, as NAME.log."""
        self._name = name
        self.log_file = folder / f"{name}.log"
        self._log = self.log_file.open("ab")

        def pin() -> None:
            # Before exec: the process never runs elsewhere, its children inherit the mask, and none outlives this one.
            os.sched_setaffinity(0, {core})
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {}), MARK: mark},
            cwd=working_directory,
            preexec_fn=pin,  # noqa: PLW1509  takes no lock
        )
        self.tree = ProcessTree([self.process.pid], classify, mark=f"{MARK}={mark}")

    def ready_line(self) -> dict[str, Any]:
        """The first line of its standard output, JSON. Raises UnavailableError with the end of its log."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_S)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            raise UnavailableError(f"{self._name} did not start: {self._last_words()}")
        return dict(json.loads(line))

    def stop(self) -> None:
        end_all(self.tree.members())
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-3:]) or f"exit code {self.process.poll()}, nothing in its log"
