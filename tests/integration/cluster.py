"""A Ray cluster of one's own, as an operator starts it, and the platform deployed onto it with `serve deploy`."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from pydantic import AnyHttpUrl

from serve_app.cli.platform import choose_ports, derive_config, free_port
from serve_app.settings import ServerSettings
from tests.integration.harness import START_S, Running, World, a_world, eventually, make_key

BIN = Path(sys.executable).parent
ANSWER_S = 60
"""What is asked for the first time may have to import before it answers."""


class Deployed:
    """A Ray cluster of this test, and the platform deployed onto it with `serve deploy`."""

    def __init__(self, world: World, root: psutil.Process, dashboard: str, variables: dict[str, str]) -> None:
        self.world = world
        self.root = root
        self.dashboard = dashboard
        self.variables = variables
        self.running: Running | None = None
        self.document: dict[str, Any] = {}
        """What was deployed last."""

    def serve_deploy(self, document: dict[str, Any]) -> None:
        """`serve deploy FILE`, until everything in it runs and everything before it is gone."""
        self.document = document
        file = self.world.folder / "deployed.yaml"
        file.write_text(yaml.safe_dump(document))
        done = self._serve("deploy", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        eventually(self.is_running, START_S)

    def deploy(self, document: dict[str, Any], *, wait: bool = True) -> None:
        """What `serve deploy` asks for, without the seconds that the command takes to start."""
        self.document = document
        httpx.put(f"{self.dashboard}/api/serve/applications/", json=document, timeout=60).raise_for_status()
        if wait:
            eventually(self.is_running, START_S)

    def is_running(self) -> bool:
        # What `serve status` prints.
        applications = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=ANSWER_S).json()["applications"]
        for name, application in applications.items():
            assert application["status"] != "DEPLOY_FAILED", f"{name}: {application['message']}"
        deployments = [d for a in applications.values() for d in (a.get("deployments") or {}).values()]
        if len(applications) < 2 or len(deployments) < 6:
            return False
        return all(a["status"] == "RUNNING" for a in applications.values()) and all(
            d["status"] == "HEALTHY" for d in deployments
        )

    def failure(self) -> str | None:
        """Why an application could not be deployed, once Serve says so."""
        applications = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=ANSWER_S).json()["applications"]
        failed = [a["message"] for a in applications.values() if a["status"] == "DEPLOY_FAILED"]
        return failed[0] if failed else None

    def ready(self, database_url: str | None = None) -> Running:
        eventually(self._serves, START_S)
        running = Running(self.world, make_key(self.world.folder / "data", database_url), self.root.pid)
        running.prepare()
        self.running = running
        return running

    def _serves(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            media = httpx.get(f"{self.world.public_url}/media", timeout=ANSWER_S).status_code
            health = httpx.get(f"{self.world.public_url}/health", timeout=ANSWER_S).json()
            return bool(media == 426 and health["capacity"]["slots"])
        return False

    def _serve(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "serve"), *arguments, "--address", self.dashboard],
            env={**os.environ, **self.variables}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


PATIENCE = {
    # These tests are about what a change of replicas does to a call. That a dozen processes which start on two CPUs
    # slow everything down must not look like a provider that hangs.
    "PARLEY_CALL__FILLER_AFTER_S": "28",
    "PARLEY_CALL__FAILOVER_AFTER_S": "29",
    "PARLEY_CALL__GIVE_UP_AFTER_S": "30",
    "PARLEY_PROVIDERS__GROQ__TOKEN_TIMEOUT_S": "30",
    "PARLEY_PROVIDERS__CARTESIA__AUDIO_TIMEOUT_S": "30",
    "PARLEY_PROVIDERS__CARTESIA__CONNECT_TIMEOUT_S": "30",
    "PARLEY_PROVIDERS__DEEPGRAM__CONNECT_TIMEOUT_S": "30",
    "PARLEY_LINK__ATTACH_TIMEOUT_S": "30",
}


def variables_of(world: World) -> dict[str, str]:
    return {
        **world.environment(),
        **PATIENCE,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }


def config_for(world: World) -> dict[str, Any]:
    server = ServerSettings(public_url=AnyHttpUrl(world.public_url), media_port=world.media_port)
    ports = choose_ports(world.port, server)
    document = derive_config(ports)
    variables = document["controller_options"]["runtime_env"]["env_vars"]
    variables.update(ports.variables())
    return document


def deployment(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(d for a in document["applications"] for d in a["deployments"] if d["name"] == name)
    return found


def end_tree(root: psutil.Process) -> None:
    """End a process and everything below it, by their ids."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*root.children(recursive=True), root]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        for process in psutil.wait_procs(family, timeout=5)[1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@contextlib.contextmanager
def a_cluster() -> Iterator[Deployed]:
    """`ray start --head` with two CPUs, as an operator does, kept in the foreground so that it is ours to end."""
    folder = Path(tempfile.mkdtemp(prefix="pc-"))
    with a_world(folder) as world:
        variables = variables_of(world)
        dashboard = free_port()
        head = subprocess.Popen(
            [
                str(BIN / "ray"), "start", "--head", "--block", "--num-cpus=2", f"--port={free_port()}",
                f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray",
                f"--ray-client-server-port={free_port()}", "--node-ip-address=127.0.0.1",
            ],
            env={**os.environ, **variables}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        url = f"http://127.0.0.1:{dashboard}"
        try:
            # The part of the dashboard that deploys comes up last.
            eventually(lambda: answers(f"{url}/api/serve/applications/"), START_S)
            yield Deployed(world, psutil.Process(head.pid), url, variables)
        finally:
            end_tree(psutil.Process(head.pid))
            head.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=ANSWER_S).is_success
    return False
