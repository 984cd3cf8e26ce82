"""`parley simulate`: conversations that are written as YAML, played without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serve_app.cli.common import clear_errors, err, out
from serve_app.errors import SettingsError
from serve_app.log import configure_logging
from serve_app.settings import LogSettings

if TYPE_CHECKING:
    from serve_app.scenarios.document import Scenario
    from serve_app.scenarios.runner import Played


def simulate(
    path: Annotated[Path, typer.Argument(help="A scenario, or a folder of them (*.yaml).", exists=True)],
    wire: Annotated[
        bool,
        typer.Option(
            "--wire",
            help="In real time: the real provider clients and a real WebSocket against the simulators, "
            "for the scenarios with `wire: true`.",
        ),
    ] = False,
    name: Annotated[
        str | None, typer.Option("--filter", help="Only scenarios with this in their name or file name.")
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="Show the timeline of scenarios that pass, too.")
    ] = False,
) -> None:
    """Play conversations that are written as YAML and check what came of them. Needs no server and no keys.

    On virtual time, with scripted providers: minutes of a call take a fraction of a second. The exit code is 1 when a
    scenario failed, and its timeline is shown. How to write one: docs/scenarios.md.
    """
    from serve_app.scenarios.report import print_played  # imports the session: other commands need not wait for it

    with clear_errors():
        # Providers that fail are what scenarios are about: only what nobody expects is told.
        configure_logging(LogSettings(level="ERROR"))
        chosen = _chosen(path, name, wire=wire)
        failed = 0
        for played in _played_on_the_wire(chosen) if wire else _played(chosen):
            print_played(out, played, timeline=timeline)
            failed += not played.passed
        err.print(f"{len(chosen)} scenarios, {failed} failed")
        raise typer.Exit(1 if failed else 0)


def _chosen(path: Path, name: str | None, *, wire: bool) -> list[Scenario]:
    """Raises SettingsError for a file that is no scenario, and where nothing is left to play."""
    from serve_app.scenarios.loading import find_scenarios, load_scenario

    files = find_scenarios(path)
    loaded = [(file, load_scenario(file)) for file in files]
    wanted = (name or "").casefold()
    chosen = [
        scenario
        for file, scenario in loaded
        if (wanted in file.stem.casefold() or wanted in scenario.name.casefold()) and (scenario.wire or not wire)
    ]
    if not chosen:
        of_wire = " with `wire: true`" if wire else ""
        raise SettingsError(f"none of the {len(files)} scenarios in {path}{of_wire} has {wanted!r} in its name")
    return chosen


def _played(scenarios: Iterable[Scenario]) -> Iterator[Played]:
    from serve_app.scenarios.runner import play

    return map(play, scenarios)


def _played_on_the_wire(scenarios: Iterable[Scenario]) -> Iterator[Played]:
    from serve_app.scenarios.wire import play_on_the_wire

    for scenario in scenarios:
        yield asyncio.run(play_on_the_wire(scenario))
