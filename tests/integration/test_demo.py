"""A command of the README, as a new user runs it: no keys, no configuration, nothing running before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

RUN = "TEST_RUN"
"""Every process of a run inherits this variable; its value is the test's folder."""


def test_the_demonstration_from_nothing(tmp_path: Path) -> None:
    """`parley demo --json` starts a platform, places the call, stops everything; its exit code is the verdict."""
    variables = {**os.environ, "PARLEY_DATA_DIR": str(tmp_path / "data"), RUN: str(tmp_path)}
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
    _nothing_is_left(tmp_path)
    _no_key_in_logs(tmp_path / "data", done.stderr)


def test_a_campaign_from_nothing(tmp_path: Path) -> None:
    """`parley demo --campaign`: the first leads of the file, a quarter of an hour of a Monday morning in 18 s."""
    folders = set(Path(tempfile.gettempdir()).glob("parley-demo-*"))
    done = subprocess.run(
        [sys.executable, "-m", "serve_app.cli.main", "demo", "--campaign", "--leads", "14", "--hours", "0.3", "--json"],
        env={**os.environ, "PARLEY_DATA_DIR": str(tmp_path / "data"), RUN: str(tmp_path)},
        capture_output=True, text=True, timeout=350, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["problems"] == []
    assert (report["double_dials"], report["illegal_minutes"], report["unknown_calls"]) == (0, 0, 0)
    assert report["imported"]["accepted"] == sum(report["leads"].values()) == 14
    # The first five of the file: one presses 9, and four must not be called, or not yet.
    assert report["opt_outs"] == 1
    put_off = {(entry["reason"], entry["zone"]): entry["until"] for entry in report["put_off"]}
    for closed in (
        ("on_do_not_call_list", "America/New_York"), ("no_consent", "America/New_York"),
        ("country_not_allowed", "Europe/Berlin"),
    ):  # fmt: skip
        assert put_off[closed] is None
    # Nine in Los Angeles is noon in New York; an opening is spread over its first ten minutes.
    assert put_off["outside_window", "America/Los_Angeles"].startswith("2026-10-19T12:0")
    _nothing_is_left(tmp_path)
    assert not (tmp_path / "data").exists()
    assert set(Path(tempfile.gettempdir()).glob("parley-demo-*")) <= folders


def _nothing_is_left(run: Path) -> None:
    """No process that was started for this run lives: all of them inherit the variable that names it."""
    left = []
    for process in psutil.process_iter(["pid", "cmdline", "environ"]):
        if (process.info["environ"] or {}).get(RUN) == str(run):
            left.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:120]}")
    assert left == []


def _no_key_in_logs(data_dir: Path, shown: str) -> None:
    """The key is shown to the person, once, and is in no file of ours."""
    key = next(word for word in shown.split() if word.startswith("pk_"))
    for file in data_dir.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), file
