"""System b: the same pipeline code in one bare uvicorn process."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from load_tests.callbench.child import PinnedChild
from load_tests.callbench.processes import ProcessTree, one_group
from load_tests.callbench.scenario import AGENT, SAMPLE_RATE_HZ
from load_tests.callbench.systems.base import Lag, Place

GROUP = "server"


def provider_environment(place: Place) -> dict[str, str]:
    """What makes Parley's pipeline use the simulators as if they were the real providers."""
    return {
        "DEEPGRAM_API_KEY": "callbench",
        "GROQ_API_KEY": "callbench",
        "CARTESIA_API_KEY": "callbench",
        "PARLEY_PROVIDERS__DEEPGRAM__BASE_URL": place.simulators_url,
        "PARLEY_PROVIDERS__DEEPGRAM__WEBSOCKET_URL": place.simulators_socket_url,
        "PARLEY_PROVIDERS__GROQ__BASE_URL": place.simulators_url,
        "PARLEY_PROVIDERS__CARTESIA__BASE_URL": place.simulators_url,
        "PARLEY_PROVIDERS__CARTESIA__WEBSOCKET_URL": place.simulators_socket_url,
        "OMP_NUM_THREADS": "1",
    }


class Bare:
    """Implements `System`."""

    name = "bare"

    def __init__(self) -> None:
        self._child: PinnedChild | None = None
        self._url = ""

    @property
    def groups(self) -> Sequence[str]:
        return (GROUP,)

    def start(self, place: Place) -> None:
        agent = place.folder / "agent.json"
        agent.write_text(json.dumps(AGENT), encoding="utf-8")
        self._child = PinnedChild(
            [sys.executable, "-m", "load_tests.bare", "--agent", str(agent), "--data-dir", str(place.folder / "bare")],
            name="bare",
            core=place.core,
            mark=place.mark,
            folder=place.folder,
            classify=one_group(GROUP),
            environment={**provider_environment(place), "PARLEY_DATA_DIR": str(place.folder / "bare")},
        )
        try:
            self._url = self._child.ready_line()["url"]
        except BaseException:
            self.stop()
            raise

    def tree(self) -> ProcessTree:
        assert self._child is not None, "start first"
        return self._child.tree

    def opening(self) -> dict[str, Any]:
        return {"kind": "socket", "uri": self._url, "sample_rate_hz": SAMPLE_RATE_HZ, "headers": {}}

    def loop_lag(self) -> Mapping[str, Lag]:
        address = self._url.replace("ws", "http", 1).removesuffix("/ws") + "/lag"
        with urllib.request.urlopen(address, timeout=10) as answer:
            measured = json.load(answer)
        return {GROUP: Lag(measured["lag_p95_ms"], measured["lag_max_ms"])}

    def about(self) -> dict[str, Any]:
        return {"processes": 1, "journal": "SQLite", "recording": "local folder, parts are not mixed down"}

    def stop(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop()
