"""System a: the whole platform as `parley up` starts it, with Ray, HAProxy, Redis, journal and recording."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import redis
import yaml

from load_tests.callbench.child import MARK
from load_tests.callbench.processes import ProcessTree, end_all, pin_threads
from load_tests.callbench.scenario import AGENT
from load_tests.callbench.systems.base import Lag, Place, provider_environment
from serve_app.cli.platform import Platform, free_port, probe
from serve_app.errors import UnavailableError
from serve_app.local_endpoints import SimulatedVonage
from serve_app.local_services import new_account
from serve_app.paths import serve_config
from serve_app.store.reports import LOAD

GROUPS = ("HAProxy", "MediaIngress", "CallSessions", "other replicas", "Redis", "local services", "rest of Ray")
START_S = 400.0
"""On one core, with ten session processes and more: importing Ray Serve costs each some seconds of CPU."""
SPARE_CALLS = 0.1
"""Sessions beyond the largest step: a slot of a call that ended is free again a moment later."""
REPORTS_KEY = f"parley:{LOAD}"
GROUP_OF_ROLE = {"ingress": "MediaIngress", "sessions": "CallSessions"}
_KEY = re.compile(r"pk_\S+")
_SOCKET = re.compile(r"/\S+redis\.sock")


def group_of(name: str, command_line: str) -> str:
    """The group of a process, by its title (Ray gives its workers one)."""
    if "ServeReplica" in command_line:
        if "MediaIngress" in command_line:
            return "MediaIngress"
        return "CallSessions" if "CallSessions" in command_line else "other replicas"
    if name.startswith("haproxy") or "/haproxy" in command_line.partition(" ")[0]:
        return "HAProxy"
    if name.startswith("redis-server"):
        return "Redis"
    return "local services" if "serve_app.local_services" in command_line else "rest of Ray"


def derive(document: Mapping[str, Any], *, max_calls: int, calls_per_process: int | None) -> dict[str, Any]:
    """The serve config with a fixed set of session replicas that never is the limit; all else as it was."""
    derived: dict[str, Any] = {key: value for key, value in document.items() if key != "applications"}
    derived["applications"] = []
    for application in document["applications"]:
        deployments = [
            _sessions(deployment, max_calls, calls_per_process) if deployment["name"] == "CallSessions" else deployment
            for deployment in application["deployments"]
        ]
        derived["applications"].append({**application, "deployments": deployments})
    return derived


def _sessions(deployment: Mapping[str, Any], max_calls: int, calls_per_process: int | None) -> dict[str, Any]:
    per_process = calls_per_process or int(deployment["max_ongoing_requests"])
    replicas = math.ceil(max(max_calls * (1 + SPARE_CALLS), max_calls + 2) / per_process)
    autoscaling = {**deployment["autoscaling_config"], "min_replicas": replicas, "max_replicas": replicas}
    if "target_ongoing_requests" in autoscaling:
        autoscaling["target_ongoing_requests"] = per_process
    return {
        **deployment,
        "max_ongoing_requests": per_process,
        "user_config": {**deployment.get("user_config", {}), "max_calls": per_process},
        "autoscaling_config": autoscaling,
        # Many replicas must fit beside the others on the CPUs that Ray counts.
        "ray_actor_options": {**deployment["ray_actor_options"], "num_cpus": min(0.1, 0.3 / replicas)},
    }


class Parley:
    """Implements `System`."""

    def __init__(self, calls_per_process: int | None = None) -> None:
        """None: as many as the shipped file says."""
        self.name = "parley" if calls_per_process is None else f"parley:{calls_per_process}"
        self._calls_per_process = calls_per_process
        self._platform: Platform | None = None
        self._tree: ProcessTree | None = None
        self._account: SimulatedVonage = new_account()
        self._sessions: dict[str, Any] = {}
        self._key = ""
        self._callers = itertools.count()
        self._redis: redis.Redis | None = None

    @property
    def groups(self) -> Sequence[str]:
        return GROUPS

    def start(self, place: Place) -> None:
        template = place.folder / "serve_config.template.yaml"
        shipped = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
        document = derive(shipped, max_calls=place.max_calls, calls_per_process=self._calls_per_process)
        template.write_text(yaml.safe_dump(document), encoding="utf-8")
        self._sessions = next(
            deployment
            for application in document["applications"]
            for deployment in application["deployments"]
            if deployment["name"] == "CallSessions"
        )
        self._platform = Platform(port=free_port(), config=template, show=self._note_key, start_timeout_s=START_S)
        try:
            self._start_pinned(place)
            self._wait_for_slots()
            self._apply_agent()
            self._redis = self._private_redis()
        except BaseException:
            self.stop()
            raise

    def tree(self) -> ProcessTree:
        assert self._tree is not None, "start first"
        return self._tree

    def opening(self) -> dict[str, Any]:
        assert self._platform is not None, "start first"
        return {
            "kind": "vonage",
            "answer_url": f"{self._platform.url}/webhooks/vonage/answer",
            "event_url": f"{self._platform.url}/webhooks/vonage/event",
            "to": self._account.from_number.lstrip("+"),
            "from": f"120255501{next(self._callers) % 100:02d}",
            "signature_secret": self._account.signature_secret,
            "api_key": self._account.api_key,
            "application_id": self._account.application_id,
        }

    def loop_lag(self) -> Mapping[str, Lag]:
        """From the replicas' own reports in Redis: read there, because a scrape would cost the system CPU."""
        if self._redis is None:
            return {}
        worst: dict[str, Lag] = {}
        for text in self._redis.hvals(REPORTS_KEY):
            report = json.loads(text)
            group = GROUP_OF_ROLE.get(report.get("role"))
            if group is not None:
                lag = worst.get(group, Lag(0.0, 0.0))
                worst[group] = Lag(max(lag.p95_ms, report["lag_p95_ms"]), max(lag.max_ms, report["lag_max_ms"]))
        return worst

    def about(self) -> dict[str, Any]:
        return {
            "calls_per_process": self._sessions["max_ongoing_requests"],
            "session_replicas": self._sessions["autoscaling_config"]["min_replicas"],
            "journal": "SQLite and Redis",
            "recording": "local folder, mixed down by CodecPool after the call",
        }

    def stop(self) -> None:
        platform, self._platform = self._platform, None
        if self._redis is not None:
            self._redis.close()
            self._redis = None
        if platform is not None:
            platform.stop()
        if self._tree is not None:
            end_all(self._tree.members(orphans=True))

    def _note_key(self, line: str) -> None:
        found = _KEY.search(line)
        if found:
            self._key = found.group()

    def _start_pinned(self, place: Place) -> None:
        """In a thread of its own: what a thread starts inherits that thread's cores, and this process keeps its own."""
        assert self._platform is not None
        platform, failure = self._platform, []

        def start() -> None:
            os.sched_setaffinity(0, {place.core})
            try:
                platform.start()
            except BaseException as error:  # noqa: BLE001  handed to the thread that waits
                failure.append(error)

        own = os.sched_getaffinity(0)
        with _environment(self._variables(place)):
            thread = threading.Thread(target=start)
            thread.start()
            thread.join()
        pin_threads(os.getpid(), own)  # the thread that reads the platform's output
        process = platform._process
        if process is not None:
            self._tree = ProcessTree([process.pid], group_of, mark=f"{MARK}={place.mark}")
        if failure:
            raise failure[0]

    def _variables(self, place: Place) -> dict[str, str]:
        key_file = place.folder / "vonage_key"
        key_file.touch(mode=0o600)
        key_file.write_text(self._account.private_key, encoding="utf-8")
        return {
            **provider_environment(place),
            MARK: place.mark,
            "PARLEY_DATA_DIR": str(place.folder / "parley"),
            "PARLEY_AGENTS__DEFAULT": AGENT["name"],
            "PARLEY_TELEPHONY__VONAGE__BASE_URL": place.simulators_url,
            "VONAGE_API_KEY": self._account.api_key,
            "VONAGE_APPLICATION_ID": self._account.application_id,
            "VONAGE_PRIVATE_KEY": str(key_file),
            "VONAGE_SIGNATURE_SECRET": self._account.signature_secret,
            "VONAGE_FROM_NUMBER": self._account.from_number,
        }

    def _private_redis(self) -> redis.Redis | None:
        """The platform's own Redis, found by its process: its socket lies in a folder of its own."""
        for process in self.tree().members():
            found = _SOCKET.search(" ".join(process.cmdline()))
            if found:
                return redis.Redis.from_url(f"unix://{found.group()}")
        return None

    def _wait_for_slots(self) -> None:
        """The platform is ready with its first session replica; a measurement needs all of them."""
        assert self._platform is not None
        wanted = self._sessions["max_ongoing_requests"] * self._sessions["autoscaling_config"]["min_replicas"]
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            health = probe(self._platform.url)
            if health is not None and (health["capacity"]["slots"] or 0) >= wanted:
                return
            time.sleep(1)
        raise UnavailableError(f"the platform did not offer {wanted} slots within {START_S:g} s")

    def _apply_agent(self) -> None:
        assert self._platform is not None
        headers = {"Authorization": f"Bearer {self._key}"}
        url = f"{self._platform.url}/api/v1/agents/{AGENT['name']}"
        httpx.put(url, json=AGENT, headers=headers, timeout=30).raise_for_status()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """`os.environ` with these variables, for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
