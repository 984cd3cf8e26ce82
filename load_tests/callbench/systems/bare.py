"""System b: the same pipeline code in one bare uvicorn process."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from load_tests.callbench.scenario import AGENT
from load_tests.callbench.systems.base import Lag, Place, provider_environment
from load_tests.callbench.systems.one_process import GROUP, OneProcess


class Bare(OneProcess):
    """`load_tests.bare`."""

    name = "bare"

    def command(self, place: Place) -> Sequence[str]:
        agent = place.folder / "agent.json"
        agent.write_text(json.dumps(AGENT), encoding="utf-8")
        data_dir = str(place.folder / "bare")
        return [sys.executable, "-m", "load_tests.bare", "--agent", str(agent), "--data-dir", data_dir]

    def environment(self, place: Place) -> Mapping[str, str]:
        return {
            **super().environment(place),
            **provider_environment(place),
            "PARLEY_DATA_DIR": str(place.folder / "bare"),
        }

    def loop_lag(self) -> Mapping[str, Lag]:
        address = self.url.replace("ws", "http", 1).removesuffix("/ws") + "/lag"
        with urllib.request.urlopen(address, timeout=10) as answer:
            measured = json.load(answer)
        return {GROUP: Lag(measured["lag_p95_ms"], measured["lag_max_ms"])}

    def about(self) -> dict[str, Any]:
        return {"processes": 1, "journal": "SQLite", "recording": "local folder, parts are not mixed down"}
