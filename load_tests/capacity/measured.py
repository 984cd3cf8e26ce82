"""Puts measured values into `inputs.yaml`, keeping its comments and order: from callbench's result, from `count`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from load_tests.callbench.comparison import ours_in

_PROCESSES = {"haproxy": "HAProxy", "ingress": "MediaIngress", "session": "CallSessions"}


def from_callbench(result: Path) -> dict[str, dict[str, Any]]:
    """Inputs by dotted name, from the largest step that passed.

    Raises ValueError when none did, KeyError when parley did not run.
    """
    document = json.loads(result.read_text(encoding="utf-8"))
    system = ours_in(document)
    passed = [step for step in system.get("steps", []) if step["passed"]]
    if not passed:
        raise ValueError(f"{result}: no step of parley passed")
    step = max(passed, key=lambda one: one["calls"])
    base = system["base"]
    source = f"callbench at {step['calls']} calls, {document['started_at'][:10]}, commit {document['commit']}"
    cpu: dict[str, float] = step["cpu_above_base_ms_per_call_s"]
    known = {name: cpu.get(group, 0.0) for name, group in _PROCESSES.items()}
    known["other"] = sum(cpu.values()) - sum(known.values())
    found = {f"cpu_ms_per_call_second.{name}": value for name, value in known.items()}
    sessions = base["memory"]["CallSessions"]["pss_kb"]
    rest = sum(group["pss_kb"] for name, group in base["memory"].items() if name != "CallSessions")
    found |= {
        "memory.call_mb": step["memory_per_call"]["pss_kb"] / 1024,
        "memory.session_process_mb": sessions / base["processes"]["CallSessions"] / 1024,
        "memory.node_base_mb": rest / 1024,
        "platform.node_base_cores": sum(base["cpu_share"].values()),
    }
    values = {
        name: {"value": round(max(0.0, value), 3), "status": "measured", "source": source}
        for name, value in found.items()
    }
    per_process = system["about"]["calls_per_process"]
    values["platform.calls_per_session_process"] = {"value": per_process, "status": "documented", "source": source}
    return values


def rewrite(text: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    """`inputs.yaml` with these inputs replaced, each on its line. Raises KeyError for one that is not there."""
    for dotted, value in values.items():
        section, _, name = dotted.partition(".")
        flow = yaml.safe_dump(dict(value), default_flow_style=True, sort_keys=False, width=10_000).strip()
        pattern = re.compile(rf"^({section}:\n(?:(?:  .*)?\n)*?  {name}: )\{{.*\}}$", re.MULTILINE)
        found = pattern.search(text)
        if found is None:
            raise KeyError(f"inputs.yaml has no {dotted}")
        text = f"{text[: found.start()]}{found.group(1)}{flow}{text[found.end() :]}"
    return text
