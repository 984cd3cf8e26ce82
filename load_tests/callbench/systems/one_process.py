"""A system of one process and one event loop: started pinned, its address told by its first line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.callbench.child import PinnedChild
from load_tests.callbench.processes import ProcessTree, one_group
from load_tests.callbench.scenario import SAMPLE_RATE_HZ
from load_tests.callbench.systems.base import Lag, Place

GROUP = "server"


class OneProcess:
    """Implements `System`, for a server that prints a JSON line with its `websocket_url`. `command` is left to say."""

    name: str
    working_directory: Path | None = None

    def __init__(self) -> None:
        self._child: PinnedChild | None = None
        self.url = ""
        """Of its media socket, once it was started."""

    def command(self, place: Place) -> Sequence[str]:
        """What starts it. Raises ParleyError when it is not there."""
        raise NotImplementedError

    def environment(self, place: Place) -> Mapping[str, str]:
        """Beside that of the benchmark: libraries must not start threads for cores that the system does not have."""
        return {"OMP_NUM_THREADS": "1"}

    def about(self) -> dict[str, Any]:
        return {"processes": 1, "journal": "none", "recording": "none"}

    def loop_lag(self) -> Mapping[str, Lag]:
        return {}  # runs as it is: nothing of ours inside

    @property
    def groups(self) -> Sequence[str]:
        return (GROUP,)

    def start(self, place: Place) -> None:
        self._child = PinnedChild(
            self.command(place),
            name=self.name,
            core=place.core,
            mark=place.mark,
            folder=place.folder,
            classify=one_group(GROUP),
            environment=self.environment(place),
            working_directory=self.working_directory,
        )
        try:
            self.url = self._child.ready_line()["websocket_url"]
        except BaseException:
            self.stop()
            raise

    def tree(self) -> ProcessTree:
        assert self._child is not None, "start first"
        return self._child.tree

    def opening(self) -> dict[str, Any]:
        return {"kind": "socket", "uri": self.url, "sample_rate_hz": SAMPLE_RATE_HZ, "headers": {}}

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop()
