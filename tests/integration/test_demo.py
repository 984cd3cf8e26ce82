"""A command of the README, as a new user runs it: no keys, no configuration, nothing running before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def test_the_demonstration_from_nothing(tmp_path: Path) -> None:
    """`parley demo --json` starts a platform, places the call, stops everything; its exit code is the verdict."""
    variables = {**os.environ, "PARLEY_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli.main", "demo", "--json"],
        env=variables, capture_output=True, text=True, timeout=350, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "API key of tenant 'default'" in done.stderr
    document = json.loads(done.stdout)
    assert document["outcome"] == "completed"
    assert document["problems"] == []
    callee = [turn for turn in document["turns"] if turn["role"] == "callee"]
    agent = [turn for turn in document["turns"] if turn["role"] == "agent"]
    assert len(callee) >= 4
    cut = [turn for turn in agent if turn["heard_text"] != turn["text"]]
    assert cut and all(turn["text"].startswith(turn["heard_text"]) for turn in cut)
    # The agent's own knowledge came back as speech.
    assert any("library" in turn["text"] for turn in agent)
    replies = [turn for turn in agent if turn["latency"]["total_ms"] is not None]
    assert len(replies) >= 4
    for turn in replies:
        latency = turn["latency"]
        stages = [latency[name] for name in ("stt_ms", "llm_ms", "sentence_ms", "tts_ms", "frame_ms")]
        # A line that is no answer of the model's has no first token; its time is then in the sentence's stage.
        assert all(stage is None or stage >= 0 for stage in stages), turn
        assert sum(stage or 0 for stage in stages) == pytest.approx(latency["total_ms"], abs=0.5)
    recording = document["recording"]
    assert recording["channels"] == 2
    assert abs(recording["duration_s"] - document["duration_s"]) <= 0.04
    assert Path(recording["path"]).stat().st_size > 10_000
    _nothing_is_left(tmp_path / "data")
    _no_key_in_logs(tmp_path / "data", done.stderr)


def _nothing_is_left(data_dir: Path) -> None:
    """No process of the platform with this folder lives: all of them inherit the variable that names it."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        if (process.info["environ"] or {}).get("PARLEY_DATA_DIR") == str(data_dir):
            left.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:120]}")
    assert left == []


def _no_key_in_logs(data_dir: Path, shown: str) -> None:
    """The key is shown to the person, once, and is in no file of ours."""
    key = next(word for word in shown.split() if word.startswith("pk_"))
    for file in data_dir.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), file
