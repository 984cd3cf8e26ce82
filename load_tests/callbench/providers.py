"""The simulated providers as the load side runs them: fixed latencies, fixed texts, and notes of what they injected."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from load_tests.callbench import scenario
from load_tests.callbench.child import PinnedChild
from load_tests.callbench.processes import ProcessTree, one_group
from load_tests.callbench.records import SttTurn

GROUP = "providers"


def simulator_document() -> dict[str, Any]:
    """The configuration of the simulators' process."""
    constant = {
        "stt_processing": 0.0,
        "stt_start_of_turn": scenario.START_OF_TURN_MS,
        "stt_end_of_turn": scenario.END_OF_TURN_MS,
        "llm_first_token": scenario.LLM_FIRST_TOKEN_MS,
        "llm_inter_token": 0.0,
        "tts_first_audio": scenario.TTS_FIRST_AUDIO_MS,
    }
    return {
        "profile": "load",
        "latency": {name: {"kind": "constant", "ms": ms} for name, ms in constant.items()},
        "stt_default_script": [turn.text for turn in scenario.ALL_TURNS],
        "llm_script": scenario.replies(),
        "tts_prepared": [scenario.OPENING],
    }


class StreamBook:
    """The turns of every transcription stream so far, put together from several takings."""

    def __init__(self) -> None:
        self._streams: dict[int, list[SttTurn]] = {}

    def add(self, taken: Mapping[str, Any]) -> None:
        """What `GET /sim/timings` told: turns that ended since it was last asked."""
        for stream in taken["streams"]:
            turns = self._streams.setdefault(int(stream["number"]), [])
            turns += [
                SttTurn(
                    turn["start_of_turn_at"],
                    turn["end_of_turn_at"],
                    turn["start_of_turn_audio_at"],
                    turn["end_of_turn_audio_at"],
                )
                for turn in stream["turns"]
            ]

    def all(self) -> list[Sequence[SttTurn]]:
        return list(self._streams.values())


class SimulatedProviders:
    """The simulators' process, pinned to the load side's core."""

    def __init__(self, *, core: int, mark: str, folder: Path) -> None:
        config = folder / "simulators.json"
        config.write_text(json.dumps(simulator_document()), encoding="utf-8")
        self._child = PinnedChild(
            [sys.executable, "-m", "serve_app.simulators", "--port", "0", "--config", str(config)],
            name="simulators",
            core=core,
            mark=mark,
            folder=folder,
            classify=one_group(GROUP),
        )
        self.url: str = self._child.ready_line()["url"]
        self.streams = StreamBook()

    @property
    def tree(self) -> ProcessTree:
        return self._child.tree

    @property
    def pid(self) -> int:
        return self._child.process.pid

    async def take(self) -> dict[str, Any]:
        """Collect the notes since the last time. Raises httpx.HTTPError."""
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.get(f"{self.url}/sim/timings")
        taken: dict[str, Any] = answer.raise_for_status().json()
        self.streams.add(taken)
        return taken

    def stop(self) -> None:
        self._child.stop()
