"""Scenario files: found, read, completed with their agent, and refused with file, line and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from serve_app.errors import SettingsError
from serve_app.paths import configs_dir
from serve_app.scenarios.document import Scenario

OPENING = "Hello, this is the test agent, an AI. This call may be recorded. How can I help you?"
DEFAULT_AGENT: Mapping[str, Any] = {
    "name": "test-agent",
    "business": "Test",
    "opening": OPENING,
    "system_prompt": "You test.",
}
"""What an agent that is given inline does not set itself."""


def find_scenarios(path: Path) -> list[Path]:
    """The file, or all scenarios in the folder, in order. Raises SettingsError where there is none."""
    if path.is_file():
        return [path]
    found = sorted([*path.rglob("*.yaml"), *path.rglob("*.yml")])
    if not found:
        raise SettingsError(f"{path}: no scenario (*.yaml) here; docs/scenarios.md shows how to write one")
    return found


def load_scenario(path: Path) -> Scenario:
    """Raises SettingsError that names the line and the step."""
    try:
        text = path.read_text(encoding="utf-8")
        document, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SettingsError(f"scenario {path}: {error}") from error
    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        raise SettingsError(f"scenario {path}: not a mapping; it needs at least `name` and `steps`")
    try:
        return Scenario.model_validate({**document, "agent": _agent(document.get("agent"))})
    except ValidationError as error:
        raise SettingsError("\n".join(_problems(path, root, error))) from error
    except SettingsError as error:
        raise SettingsError(f"scenario {path}:{_line(root, ('agent',))}: agent: {error}") from error


def _agent(given: Any) -> Any:
    """A name of a file in configs/agents, or a mapping on top of one (`base`) or of the default."""
    if given is None:
        return dict(DEFAULT_AGENT)
    if isinstance(given, str):
        return _agent_file(given)
    if not isinstance(given, dict):
        raise SettingsError("give the name of a file in configs/agents, or a mapping")
    changes = dict(given)
    base = changes.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise SettingsError("`base` is the name of a file in configs/agents")
    return _merge(DEFAULT_AGENT if base is None else _agent_file(base), changes)


def _agent_file(name: str) -> Mapping[str, Any]:
    folder = configs_dir() / "agents"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise SettingsError(f"there is no {path}; known: {known}")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: not a mapping")
    return document


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _problems(path: Path, root: yaml.Node, error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        where = _where(problem["loc"]) or "scenario"
        lines.append(f"scenario {path}:{_line(root, problem['loc'])}: {where}: {problem['msg']}")
    return lines


def _where(location: Sequence[int | str]) -> str:
    parts = list(location)
    if len(parts) >= 2 and parts[0] == "steps" and isinstance(parts[1], int):
        # Between a step's number and its fields pydantic puts the step's kind.
        fields = parts[3:] if len(parts) > 3 else parts[2:]
        return ".".join([f"step {parts[1] + 1}", *map(str, fields)])
    return ".".join(map(str, parts))


def _line(root: yaml.Node, location: Sequence[int | str]) -> int:
    """The line of the innermost part of the location that is in the file."""
    node = root
    line = root.start_mark.line
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                continue
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line
    return line + 1
