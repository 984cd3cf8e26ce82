"""Clusters: `serve deploy` onto a started one, rolling updates under live calls, one call per process, two nodes."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from serve_app.cli.platform import free_port
from serve_app.paths import configs_dir
from serve_app.store.migrate import upgrade
from tests.integration.cluster import Deployed, a_cluster, answers, config_for, deployment, variables_of
from tests.integration.harness import START_S, a_world, environment, eventually
from tests.integration.sounds import heard, sounding

pytest_plugins = ("tests.unit.store_fixtures",)
pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

LISTENING = [{"say": "Where is the practice?"}, {"listen": True}]
# Longer than a rolling update takes on the slowest machine.
CALL_S = 500


@pytest.fixture(scope="module")
def one_node() -> Iterator[Deployed]:
    with a_cluster() as deployed:
        yield deployed


def test_a_rolling_update_of_everything_cuts_no_call_on_two_cpus(one_node: Deployed) -> None:
    """The shipped file, deployed; then every deployment is replaced while a call talks."""
    document = config_for(one_node.world)
    # Much shorter than the call: an ingress replica that has drained for this long closes its listener, not its calls.
    document["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] = "2"
    one_node.serve_deploy(document)
    running = one_node.ready()
    health = running.api.get("/health").json()
    assert health["runtime"]["haproxy"] is True
    names = ("CallSessions", "MediaIngress", "CodecPool", "ControlApi", "Dialer", "Workers")
    old = {name: {p.pid for p in running.replicas(name)} for name in names}
    assert all(old.values())
    call_id = running.place(LISTENING, to="+12025550140", max_duration_s=CALL_S)
    running.until(call_id, "in_progress")

    changed = copy.deepcopy(document)
    settings = one_node.world.folder / "changed.yaml"
    settings.write_text((configs_dir() / "parley.yaml").read_text() + "\ncall: {lead_ms: 250}\n")
    for application in changed["applications"]:
        application["args"] = {"config": str(settings)}
    one_node.deploy(changed, wait=False)
    eventually(lambda: all({p.pid for p in running.replicas(n)} - pids for n, pids in old.items()), START_S)
    # The old ingress and the old session stay for the call's sake, while new calls find the new ones.
    eventually(lambda: running.api.get("/health").is_success, START_S)
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
    # The ports in it are taken, by itself.
    document = copy.deepcopy(one_node.document)
    sessions = deployment(document, "CallSessions")
    sessions["max_ongoing_requests"] = 1
    sessions["user_config"] = {"max_calls": 1}
    sessions["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    # Replicas of the test before may still drain: they offer no slots any more.
    one_node.deploy(document, wait=False)
    running = one_node.ready()
    eventually(lambda: running.api.get("/health").json()["capacity"]["slots"] == 2, START_S)
    first = running.place(LISTENING, to="+12025550142")
    second = running.place(LISTENING, to="+12025550143")
    for call_id in (first, second):
        running.until(call_id, "in_progress")
    # Two slots, two calls: the third waits.
    third = running.place(LISTENING, to="+12025550144")
    # A replica on a busy machine may be late to say what it offers.
    eventually(lambda: running.api.get("/health").json()["capacity"] == {"slots": 2, "used": 2}, 60)
    assert running.call(third)["status"] == "queued"
    for call_id in (first, second):
        assert running.api.post(f"/api/v1/calls/{call_id}/hangup").is_success
        running.ended(call_id)
    running.until(third, "in_progress")
    running.api.post(f"/api/v1/calls/{third}/hangup")
    running.ended(third)


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
                eventually(lambda: answers(f"{url}/api/version"), START_S)
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
    message = eventually(two_nodes.failure, START_S)
    for needed in ("DATABASE_URL", "REDIS_URL", "OBJECTS_URL", "keys of cartesia, deepgram, groq, vonage"):
        assert needed in message, message

    two_nodes.deploy(document)
    running = two_nodes.ready(postgres_url)
    call_id = running.place([{"say": "Where can I park?"}, {"say": "Goodbye."}, {"listen": True}])
    running.until(call_id, "in_progress")
    (ingress,) = running.replicas("MediaIngress")
    # Ray's own connections are gRPC on IPv6 sockets.
    listening = {
        connection.laddr[1]
        for session in running.replicas("CallSessions")
        for connection in session.net_connections("tcp4")
        if connection.status == psutil.CONN_LISTEN
    }
    link = [c for c in ingress.net_connections("tcp4") if c.raddr and c.raddr[1] in listening]
    assert len(link) == 1, "one TCP connection carries the frames between the nodes"
    assert running.ended(call_id)["outcome"] == "completed"
    network = running.network(call_id)["media"]
    assert (network["wrong_size"], network["overflowed_frames"]) == (0, 0)
    assert "Parking is free" in " ".join(turn["text"] for turn in running.turns(call_id))
    _, recorded = running.recording(call_id)
    # Sample for sample and in order, whether or not a busy machine made pauses in it.
    assert np.array_equal(sounding(recorded[:, 1]), sounding(heard(running, call_id)))
