"""Clusters: `serve deploy` onto a started one, rolling updates under live calls, one call per process, two nodes."""

from __future__ import annotations

import contextlib
import copy
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
import pytest
import yaml

from serve_app.cli.platform import choose_ports, derive_config, free_port
from serve_app.paths import configs_dir
from serve_app.store.migrate import upgrade
from tests.integration.harness import Running, World, a_world, environment, eventually, make_key

pytest_plugins = ("tests.unit.store_fixtures",)
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

BIN = Path(sys.executable).parent
LISTENING = [{"say": "Where is the practice?"}, {"listen": True}]


class Deployed:
    """A Ray cluster of this test, and the platform deployed onto it with `serve deploy`."""

    def __init__(self, world: World, root: psutil.Process, dashboard: str, variables: dict[str, str]) -> None:
        self.world = world
        self.root = root
        self.dashboard = dashboard
        self.variables = variables
        self.running: Running | None = None

    def deploy(self, document: dict[str, Any], *, wait: bool = True) -> None:
        """`serve deploy FILE`; with `wait` until everything in it runs and everything before it is gone."""
        file = self.world.folder / "deployed.yaml"
        file.write_text(yaml.safe_dump(document))
        done = self._serve("deploy", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        if wait:
            eventually(self.is_running, 200)

    def is_running(self) -> bool:
        # What `serve status` prints, without the seconds that the command takes to start.
        applications = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).json()["applications"]
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
        applications = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=30).json()["applications"]
        failed = [a["message"] for a in applications.values() if a["status"] == "DEPLOY_FAILED"]
        return failed[0] if failed else None

    def ready(self, database_url: str | None = None) -> Running:
        eventually(self._serves, 90)
        running = Running(self.world, make_key(self.world.folder / "data", database_url), self.root.pid)
        running.prepare()
        self.running = running
        return running

    def _serves(self) -> bool:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            media = httpx.get(f"{self.world.public_url}/media", timeout=2).status_code
            return bool(media == 426 and httpx.get(f"{self.world.public_url}/health").json()["capacity"]["slots"])
        return False

    def _serve(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "serve"), *arguments, "--address", self.dashboard],
            env={**os.environ, **self.variables}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


def variables_of(world: World) -> dict[str, str]:
    return {
        **world.environment(),
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }


def config_for(world: World) -> dict[str, Any]:
    ports = choose_ports(world.port)
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


@pytest.fixture(scope="module")
def one_node() -> Iterator[Deployed]:
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
            eventually(lambda: _answers(f"{url}/api/version"), 60)
            yield Deployed(world, psutil.Process(head.pid), url, variables)
        finally:
            end_tree(psutil.Process(head.pid))
            head.wait(10)
    shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url, timeout=2).is_success
    return False


def test_a_rolling_update_of_everything_cuts_no_call_on_two_cpus(one_node: Deployed) -> None:
    """The shipped file, deployed; then every deployment is replaced while a call talks."""
    document = config_for(one_node.world)
    # It must cover the longest call: an ingress replica that has drained for this long closes its sockets.
    document["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "240"
    one_node.deploy(document)
    running = one_node.ready()
    health = running.api.get("/health").json()
    assert health["runtime"]["haproxy"] is True
    names = ("CallSessions", "MediaIngress", "CodecPool", "ControlApi", "Dialer", "Workers")
    old = {name: {p.pid for p in running.replicas(name)} for name in names}
    assert all(old.values())
    call_id = running.place(LISTENING, to="+12025550140", max_duration_s=250)
    running.until(call_id, "in_progress")

    changed = copy.deepcopy(document)
    settings = one_node.world.folder / "changed.yaml"
    settings.write_text((configs_dir() / "parley.yaml").read_text() + "\ncall: {lead_ms: 250}\n")
    for application in changed["applications"]:
        application["args"] = {"config": str(settings)}
    one_node.deploy(changed, wait=False)
    eventually(lambda: all({p.pid for p in running.replicas(n)} - pids for n, pids in old.items()), 90)
    # The old ingress and the old session stay for the call's sake, while new calls find the new ones.
    eventually(lambda: running.api.get("/health").is_success, 60)
    fresh = running.place([{"say": "Goodbye."}, {"listen": True}], to="+12025550141")
    assert running.ended(fresh)["outcome"] == "completed"
    assert running.call(call_id)["status"] == "in_progress", running.call(call_id)
    assert any("library" in turn["text"] for turn in running.turns(call_id))
    assert {p.pid for p in running.replicas("MediaIngress")} & old["MediaIngress"]
    # The old session still listens to its mailbox.
    assert running.api.post(f"/api/v1/calls/{call_id}/hangup").status_code == 200
    assert running.ended(call_id)["outcome"] == "agent_hung_up"
    media = running.network(call_id)["media"]
    # One socket from the first frame to the hang-up, and every frame a whole one. Whether each came in time is the
    # scale benchmark's to say: twelve starting processes share these two CPUs with the call.
    assert (media["end"], media["close_code"]) in {("far_closed", 1000), ("near_closed", 1000)}, media
    assert (media["wrong_size"], media["overflowed_frames"]) == (0, 0)
    assert media["frames_sent"] >= media["duration_ms"] // 20 - 1
    running.recording(call_id)


def test_one_call_per_session_process_by_configuration(one_node: Deployed) -> None:
    document = config_for_running(one_node)
    sessions = deployment(document, "CallSessions")
    sessions["max_ongoing_requests"] = 1
    sessions["user_config"] = {"max_calls": 1}
    sessions["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2, "target_ongoing_requests": 1}
    # Replicas of the test before may still drain: they offer no slots any more.
    one_node.deploy(document, wait=False)
    running = one_node.ready()
    eventually(lambda: running.api.get("/health").json()["capacity"]["slots"] == 2, 120)
    first = running.place(LISTENING, to="+12025550142")
    second = running.place(LISTENING, to="+12025550143")
    for call_id in (first, second):
        running.until(call_id, "in_progress")
    # Two slots, two calls: the third waits.
    third = running.place(LISTENING, to="+12025550144")
    assert running.api.get("/health").json()["capacity"] == {"slots": 2, "used": 2}
    assert running.call(third)["status"] == "queued"
    for call_id in (first, second):
        assert running.api.post(f"/api/v1/calls/{call_id}/hangup").is_success
        running.ended(call_id)
    running.until(third, "in_progress")
    running.api.post(f"/api/v1/calls/{third}/hangup")
    running.ended(third)


def config_for_running(deployed: Deployed) -> dict[str, Any]:
    """The file that is deployed now: its ports are taken, by itself."""
    document: dict[str, Any] = yaml.safe_load((deployed.world.folder / "deployed.yaml").read_text())
    return document


@pytest.fixture
def two_nodes(postgres_url: str) -> Iterator[Deployed]:
    """Two Ray nodes on this machine; sessions live on the second one only."""
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="pn-"))
    dashboard = free_port()
    with a_world(folder) as world:
        upgrade(postgres_url)
        variables = {
            **variables_of(world),
            "DATABASE_URL": postgres_url,
            "OBJECTS_URL": f"file://{folder}/objects",
            "OMP_NUM_THREADS": "1",
        }
        (folder / "objects").mkdir()
        with environment(variables):
            cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 2,
                    "include_dashboard": True,
                    "dashboard_port": dashboard,
                    "resources": {"edge": 10},
                },
            )
            try:
                cluster.add_node(num_cpus=2, resources={"sessions": 10})
                url = f"http://127.0.0.1:{dashboard}"
                eventually(lambda: _answers(f"{url}/api/version"), 60)
                yield Deployed(world, psutil.Process(), url, variables)
            finally:
                cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_two_nodes_refuse_local_services_and_talk_over_tcp(two_nodes: Deployed, postgres_url: str) -> None:
    world = two_nodes.world
    document = config_for(world)
    document["proxy_location"] = "HeadOnly"
    for application in document["applications"]:
        for entry in application["deployments"]:
            place = "sessions" if entry["name"] == "CallSessions" else "edge"
            entry["ray_actor_options"] |= {"resources": {place: 0.1}}

    # Without URLs and keys this would need local services on two machines.
    nothing = world.folder / "nothing.yaml"
    nothing.write_text("mode: local\n")
    refused = copy.deepcopy(document)
    for application in refused["applications"]:
        application["args"] = {"config": str(nothing)}
    two_nodes.deploy(refused, wait=False)
    message = eventually(two_nodes.failure, 60)
    for needed in ("DATABASE_URL", "REDIS_URL", "OBJECTS_URL", "keys of cartesia, deepgram, groq, vonage"):
        assert needed in message, message

    two_nodes.deploy(document)
    running = two_nodes.ready(postgres_url)
    call_id = running.place([{"say": "Where can I park?"}, {"say": "Goodbye."}, {"listen": True}])
    running.until(call_id, "in_progress")
    (ingress,) = running.replicas("MediaIngress")
    (session,) = running.replicas("CallSessions")
    # Ray's own connections are gRPC on IPv6 sockets.
    listening = {c.laddr[1] for c in session.net_connections("tcp4") if c.status == psutil.CONN_LISTEN}
    link = [c for c in ingress.net_connections("tcp4") if c.raddr and c.raddr[1] in listening]
    assert len(link) == 1, "one TCP connection carries the frames between the nodes"
    assert running.ended(call_id)["outcome"] == "completed"
    network = running.network(call_id)["media"]
    assert (network["wrong_size"], network["underruns"]) == (0, 0)
    assert "Parking is free" in " ".join(turn["text"] for turn in running.turns(call_id))
    eventually(lambda: running.api.get(f"/api/v1/calls/{call_id}/recording").is_success, 30)
