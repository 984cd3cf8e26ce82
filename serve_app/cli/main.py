"""The command `parley`."""

from __future__ import annotations

import asyncio
import base64
import difflib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from serve_app.cli import campaign, do_not_call, kill_switch, leads, number, tenant
from serve_app.cli.client import ApiClient, api_key
from serve_app.cli.common import clear_errors, err, out, with_database
from serve_app.cli.placing import Expectations, PlacedCall, place_call
from serve_app.cli.platform import Platform, running_platform
from serve_app.cli.show import LiveTranscript, print_call, print_result, print_transcript
from serve_app.cli.simulate import simulate
from serve_app.conversation.agent import AgentDefinition
from serve_app.errors import SettingsError
from serve_app.local_endpoints import sqlite_url
from serve_app.log import configure_logging
from serve_app.paths import configs_dir
from serve_app.settings import LogSettings, load_settings
from serve_app.store.db import Database
from serve_app.store.repositories import Agents, ApiKeys

app = typer.Typer(
    name="parley",
    help="AI phone calls at scale, on Ray Serve.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
agent_app = typer.Typer(help="Agent definitions.", no_args_is_help=True)
db_app = typer.Typer(help="The SQL database.", no_args_is_help=True)
key_app = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(agent_app, name="agent")
app.add_typer(db_app, name="db")
app.add_typer(key_app, name="key")
app.add_typer(campaign.app, name="campaign")
app.add_typer(do_not_call.app, name="do-not-call")
app.add_typer(leads.app, name="leads")
app.add_typer(kill_switch.app, name="kill-switch")
app.add_typer(number.app, name="number")
app.add_typer(tenant.app, name="tenant")
app.command()(simulate)

DEMO_NUMBER = "+12025550123"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
Play = Annotated[bool, typer.Option("--play", help="Play the recording afterwards, where a player is installed.")]


@app.callback()
def logs() -> None:
    """What the platform's code logs in this process goes to stderr, and only what somebody should look at."""
    configure_logging(LogSettings(level="WARNING"))


@app.command()
def up(
    port: Annotated[
        int | None, typer.Option(help="HTTP port; 0 takes a free one. Default: the port of server.public_url.")
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Place the demonstration call once it runs.")] = False,
    config: Annotated[Path | None, typer.Option(help="Another serve config file.", exists=True, dir_okay=False)] = None,
) -> None:
    """Start the platform on this machine and serve until Ctrl-C."""
    with clear_errors():
        settings = load_settings()
        wanted = port if port is not None else (urlsplit(settings.public_url).port or 8000)
        err.print("starting the platform (Ray, six deployments, local services)")
        platform = Platform(port=wanted or None, config=config, show=lambda line: err.print(line, markup=False))
        with _terminated_like_ctrl_c():
            try:
                health = platform.start()
                if demo:
                    _finish(asyncio.run(_demo(platform.url, health, err)), err, play=False)
                _announce(platform, health)
                code = platform.wait()
                raise SettingsError(f"the platform ended by itself with code {code}; its log is {platform.log_file}")
            finally:
                err.print("stopping the platform")
                platform.stop()


@app.command()
def demo(
    as_json: Json = False,
    play: Play = False,
    campaign: Annotated[
        bool,
        typer.Option("--campaign", help="Call 200 leads in many time zones instead, by a clock of a minute a second."),
    ] = False,
    leads: Annotated[int | None, typer.Option(min=1, help="With --campaign: only the first ones of the file.")] = None,
    hours: Annotated[
        float | None, typer.Option(min=0.01, max=24, help="With --campaign: until when, by its clock. Default: 4.")
    ] = None,
) -> None:
    """Place one call through the whole chain and show it: at least four turns and a barge-in."""
    if not campaign:
        if leads is not None or hours is not None:
            raise typer.BadParameter("--leads and --hours go with --campaign")
        _run_and_exit(as_json, play, _demo)
        return
    if play:
        raise typer.BadParameter("--play goes with the demonstration of one call, not with --campaign")
    from serve_app.cli.campaign_demo import run_campaign_demo  # with them, other commands would start later
    from serve_app.cli.campaign_demo_report import as_json as report_json
    from serve_app.cli.campaign_demo_report import print_report

    with clear_errors(), _terminated_like_ctrl_c():
        result = run_campaign_demo(leads=leads, hours=hours, show=lambda line: err.print(line, markup=False))
        if as_json:
            sys.stdout.write(json.dumps(report_json(result), indent=2) + "\n")
        else:
            print_report(out, result)
        raise typer.Exit(1 if result.problems else 0)


@app.command()
def call(
    wav: Annotated[
        Path | None, typer.Option(help="The callee speaks this sound file.", exists=True, dir_okay=False)
    ] = None,
    transcript: Annotated[str | None, typer.Option(help="What is said in the sound file.")] = None,
    say: Annotated[list[str] | None, typer.Option(help="The callee says this text (repeatable).")] = None,
    to: Annotated[str, typer.Option(help="The simulated callee's number.")] = DEMO_NUMBER,
    agent: Annotated[str | None, typer.Option(help="The agent's name.")] = None,
    as_json: Json = False,
    play: Play = False,
) -> None:
    """Call a simulated callee who says what you give: texts, or a sound file of any rate."""
    if (wav is None) == (not say):
        raise typer.BadParameter("give either --wav FILE or at least one --say TEXT")
    if transcript is not None and wav is None:
        raise typer.BadParameter("--transcript goes with --wav")
    steps: list[dict[str, Any]] = [{"say": text} for text in say or []]
    if wav is not None:
        step: dict[str, Any] = {"play_base64": base64.b64encode(wav.read_bytes()).decode()}
        if transcript is not None:
            step["transcript"] = transcript
        steps.append(step)
    behaviour = {"steps": [*steps, {"hang_up": True, "pause_ms": 1000}]}
    expected = Expectations(outcomes=frozenset({"completed", "callee_hung_up"}), callee_turns=1)

    async def placing(url: str, health: dict[str, Any], console: Console) -> PlacedCall:
        return await place_call(
            url,
            health,
            to=to,
            agent=agent,
            behaviour=behaviour,
            expected=expected,
            on_event=LiveTranscript(console),
        )

    _run_and_exit(as_json, play, placing)


@app.command()
def show(
    call_id: Annotated[str, typer.Argument(help="The call's id, as the API and the log tell it.")],
    as_json: Json = False,
) -> None:
    """Show a call: what was said and heard, and for every reply how long which stage made the callee wait.

    Asks the platform at PARLEY_URL, else at server.public_url. What the stages mean: docs/latency.md.
    """
    with clear_errors():
        call, turns = asyncio.run(_read_call(call_id))
        if as_json:
            sys.stdout.write(json.dumps({**call, "turns": turns}, indent=2) + "\n")
            return
        print_transcript(out, turns)
        print_call(out, call, turns)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check configuration, keys, models, ports, Redis, SQL, HAProxy mode and public_url; say what to do."""
    from serve_app.cli.doctor import (
        run_doctor,  # imports every provider's SDK: seconds that other commands need not wait
    )

    with clear_errors():
        raise typer.Exit(asyncio.run(run_doctor(out, as_json=as_json)))


@app.command()
def simulators(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    public_url: Annotated[
        str, typer.Option(help="The platform that the simulated network calls back.")
    ] = "http://127.0.0.1:8000",
) -> None:
    """Run the stand-ins of the providers and the phone network alone, until Ctrl-C.

    Prints their address and the account of the simulated network as JSON.
    """
    from serve_app.local_services import new_account, write_simulator_config

    account = new_account()
    with tempfile.TemporaryDirectory(prefix="parley-sim-") as folder:
        config = write_simulator_config(Path(folder), account, public_url.rstrip("/"))
        err.print("account of the simulated network (VONAGE_* of a platform that shall use it):")
        err.print_json(account.model_dump_json(exclude={"public_key"}))
        # Their own process: it loads a GPL voice, which the product must not.
        command = [sys.executable, "-m", "serve_app.simulators", "--port", str(port), "--config", str(config)]
        with clear_errors():
            code = subprocess.call(command)  # noqa: S603
    raise typer.Exit(code)


@agent_app.command("apply")
def agent_apply(path: Annotated[Path, typer.Argument(help="A YAML file, or a folder of them.", exists=True)]) -> None:
    """Store agent definitions. Equal content keeps its version; changed content becomes the next one."""
    with clear_errors():
        files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not files:
            raise SettingsError(f"{path} holds no *.yaml file")
        definitions = [_agent(file) for file in files]

        async def store(db: Database, tenant: str) -> None:
            for definition in definitions:
                row = await Agents(db, tenant).apply(definition.name, definition.model_dump(mode="json"))
                out.print(f"{row.name} version {row.version}")

        asyncio.run(with_database(store))


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Bring the database to this version's schema."""
    from serve_app.store.migrate import current_revision, upgrade

    with clear_errors():
        settings = load_settings()
        url = settings.database.url or sqlite_url(settings)
        settings.data_dir.expanduser().mkdir(parents=True, exist_ok=True)
        upgrade(url)
        out.print(f"the database is at revision {current_revision(url)}")


@key_app.command("create")
def key_create(name: Annotated[str, typer.Argument(help="What the key is for.")]) -> None:
    """Make an API key of the configured tenant and show it once."""
    with clear_errors():

        async def create(db: Database, tenant: str) -> None:
            plaintext, _ = await ApiKeys(db, tenant).create(name)
            out.print(plaintext)

        asyncio.run(with_database(create))


def _agent(file: Path) -> AgentDefinition:
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: not a text file in UTF-8; an agent is a YAML file like {_example()}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{file}: expected the fields of one agent; see {_example()}")
    try:
        return AgentDefinition.model_validate(document)
    except ValidationError as error:
        told = "\n  ".join(_agent_problem(item["loc"], item["type"], item["msg"]) for item in error.errors())
        raise SettingsError(f"{file} is not a valid agent:\n  {told}\nAn example is {_example()}") from error


def _agent_problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    path = ".".join(map(str, location))
    if kind == "missing":
        return f"{path}: this field is missing"
    if kind != "extra_forbidden":
        return f"{path}: {message}"
    near = difflib.get_close_matches(str(location[-1]), AgentDefinition.model_fields, n=1, cutoff=0.5)
    return f"{path}: unknown field" + (f"; did you mean '{near[0]}'?" if near else "")


def _example() -> Path:
    return configs_dir() / "agents" / "riverside-dental.yaml"


async def _demo(url: str, health: dict[str, Any], console: Console) -> PlacedCall:
    scenario = yaml.safe_load((configs_dir() / "demo.yaml").read_text(encoding="utf-8"))
    behaviour = yaml.safe_load((configs_dir() / scenario["callee"]).read_text(encoding="utf-8"))
    return await place_call(
        url,
        health,
        to=DEMO_NUMBER,
        agent=scenario["agent"],
        behaviour=behaviour,
        expected=Expectations(
            outcomes=frozenset(scenario["expect"]["outcomes"]),
            callee_turns=scenario["expect"]["callee_turns"],
            interruptions=scenario["expect"]["interruptions"],
        ),
        on_event=LiveTranscript(console),
    )


async def _read_call(call_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    url = os.environ.get("PARLEY_URL", "").rstrip("/") or load_settings().public_url
    path = f"/api/v1/calls/{quote(call_id, safe='')}"
    async with ApiClient(url, await api_key()) as api:
        return await api.get(path), (await api.get(f"{path}/transcript"))["turns"]


def _run_and_exit(as_json: bool, play: bool, placing: Any) -> None:
    with clear_errors(), _terminated_like_ctrl_c():
        console = err if as_json else out
        with running_platform(show=lambda line: err.print(line, markup=False)) as (url, health):
            placed = asyncio.run(placing(url, health, console))
            if as_json:
                sys.stdout.write(json.dumps(placed.as_json(), indent=2) + "\n")
                sys.stdout.flush()
            code = _finish(placed, console, play=play)
        raise typer.Exit(code)


def _finish(placed: PlacedCall, console: Console, *, play: bool) -> int:
    print_result(console, placed)
    if play and placed.recording is not None and placed.recording["path"]:
        player = next((found for name in ("ffplay", "play", "aplay", "afplay") if (found := shutil.which(name))), None)
        if player is None:
            err.print("no player found (ffplay, play, aplay or afplay); the file is named above")
        else:
            options = ["-nodisp", "-autoexit", "-loglevel", "error"] if player.endswith("ffplay") else []
            subprocess.call([player, *options, placed.recording["path"]])  # noqa: S603
    return 1 if placed.problems else 0


def _announce(platform: Platform, health: dict[str, Any]) -> None:
    err.print()
    err.print(f"Parley serves at {platform.url}  (API: {platform.url}/docs, state: {platform.url}/health)")
    err.print(health["runtime"]["serving"], soft_wrap=True)
    if health["simulated"]:
        err.print(f"simulated: {', '.join(health['simulated'])}")
    err.print(f"log: {platform.log_file}", soft_wrap=True)
    # `parley call` looks for the platform at the configured address.
    where = "" if platform.url == load_settings().public_url else f"PARLEY_URL={platform.url} "
    err.print(f"Ctrl-C stops it. Try: {where}parley call --say 'Where do I park?' --say 'Goodbye.'", soft_wrap=True)


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that a platform of ours is stopped in order."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    app()
