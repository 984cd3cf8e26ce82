"""Scenario files: YAML in, scenarios out, and errors that name file, line and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from serve_app.errors import SettingsError
from serve_app.paths import configs_dir
from serve_app.scenarios.document import ACTIONS, Scenario, Step, action_of

Path_ = tuple[int | str, ...]


def find_scenarios(path: Path) -> list[Path]:
    """The file, or the `*.yaml` files of the folder and the folders in it. Raises SettingsError for none."""
    files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
    if not files:
        raise SettingsError(f"{path} holds no *.yaml file; docs/scenarios.md shows how to write one")
    return files


def load_scenario(file: Path) -> Scenario:
    """Raises SettingsError with a line per problem."""
    document, lines = _read(file)
    if not isinstance(document, dict):
        raise SettingsError(f"{file}: expected the fields of one scenario; docs/scenarios.md shows one")
    document = {"name": file.stem, **document, "agent": _agent(document.get("agent"), file)}
    try:
        return Scenario.model_validate(document)
    except ValidationError as error:
        # A list whose items are wrong is told to be too short as well.
        told = [item for item in error.errors(include_url=False) if item["type"] != "too_short" or not item["input"]]
        problems = [_problem(file, document, lines, item) for item in told]
        raise SettingsError("\n".join(problems)) from error


def _read(file: Path) -> tuple[Any, dict[Path_, int]]:
    """The document, and the line of everything in it."""
    try:
        text = file.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = dict(_lines(node, ()))
        return yaml.safe_load(text), lines
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not a text file in UTF-8") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    except _DuplicateKeyError as error:
        raise SettingsError(f"{file}:{error.line}: {error.key} is there twice; remove one") from error


class _DuplicateKeyError(Exception):
    def __init__(self, line: int, key: str) -> None:
        self.line, self.key = line, key


def _lines(node: yaml.Node | None, path: Path_) -> Iterator[tuple[Path_, int]]:
    if node is None:
        return
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise _DuplicateKeyError(key.start_mark.line + 1, key.value)
            seen.add(key.value)
            yield from _lines(value, (*path, key.value))
            yield (*path, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, index))


# --- agents -----------------------------------------------------------------------------------------------------------


def _agent(given: Any, file: Path) -> Any:
    """The agent's document: of `configs/agents` by its name, of a file by its path, or with changes to one of them."""
    if isinstance(given, str):
        return _agent_document(given, file)
    if isinstance(given, dict) and "from" in given:
        changes = {key: value for key, value in given.items() if key != "from"}
        return _merged(_agent_document(str(given["from"]), file), changes)
    return given


def _agent_document(name: str, file: Path) -> Any:
    agents = configs_dir() / "agents"
    path = file.parent / name if name.endswith((".yaml", ".yml")) else agents / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(agent.stem for agent in agents.glob("*.yaml")))
        raise SettingsError(
            f"{file}: agent: there is no {path}; give the name of a file in {agents} ({known}), "
            "or the path of a .yaml file beside the scenario"
        )
    return _read(path)[0]


def _merged(base: Any, changes: Any) -> Any:
    """`changes` over `base`: mappings key by key, anything else as a whole."""
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: _merged(base.get(key), value) for key, value in changes.items()}}


# --- problems ---------------------------------------------------------------------------------------------------------


def _problem(file: Path, document: Any, lines: Mapping[Path_, int], item: Any) -> str:
    path: Path_ = item["loc"]
    if path[:1] == ("steps",):
        # After its number pydantic puts which of the steps it took it for.
        path = (*path[:2], *path[3:])
    line = next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), 1)
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        message = "this field is missing"
    elif item["type"] == "extra_forbidden":
        message = f"unknown field{_nearest(str(path[-1]), _fields_at(document, path[:-1]))}"
    elif item["type"] == "no_action":
        given = item["input"] if isinstance(item["input"], dict) else {}
        message += next(filter(None, (_nearest(str(key), ACTIONS) for key in given)), "")
    elif item["type"] == "string_type" and isinstance(item["input"], bool | int | float):
        message = f"YAML reads {item['input']!r} here; put the text in quotes"
    return f"{file}:{line}: {'.'.join(map(str, path)) or 'scenario'}: {message}"


def _nearest(name: str, valid: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def _fields_at(document: Any, path: Path_) -> Iterable[str]:
    """The fields that may be at a place of the document."""
    model: type[BaseModel] | None = Scenario
    here = document
    for part in path:
        here = _below(here, part)
        if isinstance(part, int) and path[0] == "steps" and action_of(here) is not None:
            model = next(m for m in _models(Step) if next(iter(m.model_fields)) == action_of(here))
        elif model is not None and part in model.model_fields:
            model = next(_models(model.model_fields[str(part)].annotation), None)
    return model.model_fields if model is not None else ()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in an annotation, from the outside to the inside."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _below(here: Any, part: int | str) -> Any:
    try:
        return here[part]
    except (KeyError, IndexError, TypeError):
        return None
