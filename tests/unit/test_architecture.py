"""Dependencies point one way; read from the syntax tree, so that no import can hide in a function."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

BASE = {
    "clock",
    "errors",
    "latency_budgets",
    "latency_counts",
    "local_endpoints",
    "log",
    "media_address",
    "metrics",
    "paths",
    "provider_settings",
    "settings",
    "tracing",
}
# What each room may import besides BASE and itself.
ALLOWED: dict[str, set[str]] = {
    "audio": set(),
    # The interfaces of `providers.base` and `telephony.base` share the audio format.
    "providers": {"audio"},
    "telephony": {"audio", "providers"},
    "store": {"audio"},
    "conversation": {"audio", "telephony", "providers", "store"},
    "dialing": {"audio", "telephony", "providers", "store", "conversation"},
    "jobs": {"audio", "telephony", "providers", "store", "conversation", "dialing"},
    "api": {"audio", "telephony", "providers", "store", "conversation", "dialing"},
    # They stand for the outside world: shared wire code would hide a fault on both sides.
    "simulators": {"audio"},
    # Plays both ends of a call: the session, and on the wire the simulated phone.
    "scenarios": {"audio", "telephony", "providers", "store", "conversation", "simulators"},
    "local_services": {"store"},
    "cli": {
        "audio",
        "telephony",
        "providers",
        "store",
        "conversation",
        "dialing",
        "api",
        # An import runs in the command, where no platform does it.
        "jobs",
        "local_services",
        "scenarios",
    },
}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield str(node.module)


def room(file: Path) -> str:
    relative = file.relative_to(ROOT / "serve_app")
    return relative.parts[0].removesuffix(".py")


SOURCES = sorted((ROOT / "serve_app").rglob("*.py"))


def test_there_is_something_to_check() -> None:
    assert {room(file) for file in SOURCES} >= ALLOWED.keys()


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    here = room(file)
    for module in imports(file):
        top, *rest = module.split(".")
        assert top != "ray", f"{file} imports ray"
        assert top != "deployments", f"{file} imports deployments"
        assert top not in ("tests", "load_tests"), f"{file} imports {top}"
        if top == "serve_app" and rest and here in ALLOWED:
            target = rest[0]
            assert target in ALLOWED[here] | BASE | {here}, f"{file}: {here} may not import {target}"
        elif top == "serve_app" and rest and here in BASE:
            assert rest[0] in BASE, f"{file}: a base module imports {rest[0]}"


@pytest.mark.parametrize(
    "name",
    ["turn.py", "ledger.py", "playout.py", "playout_utterance.py", "far_marks.py", "speakable.py", "sentences.py"],
)
def test_the_cores_do_no_io(name: str) -> None:
    found = set(imports(ROOT / "serve_app" / "conversation" / name))
    assert not found & {"asyncio", "time", "datetime", "socket", "threading"}


def test_the_calling_rules_do_no_io_and_know_no_clock() -> None:
    files = sorted((ROOT / "serve_app" / "dialing" / "rules").glob("*.py"))
    assert len(files) >= 8
    for file in files:
        assert not set(imports(file)) & {"asyncio", "time", "socket", "threading", "sqlalchemy"}, file
        calls = [n.func for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        asked = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        assert not asked & {"now", "utcnow", "today", "monotonic"}, file


def test_the_wire_codecs_do_no_io() -> None:
    for file in (ROOT / "serve_app" / "telephony").glob("*/wire.py"):
        assert not set(imports(file)) & {"asyncio", "time", "datetime", "socket", "threading"}, file


def test_the_gpl_voice_is_loaded_by_the_simulators_only() -> None:
    for file in SOURCES:
        if room(file) != "simulators":
            assert not set(imports(file)) & {"espeakng_loader", "pocketsphinx"}, file
