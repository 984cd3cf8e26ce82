"""Locust users of the platform: callers, the phone network's webhooks, and programs that use the API.

    .venv/bin/locust -f load_tests/locustfile.py --host http://127.0.0.1:8000

The callers' audio runs in leg workers, processes of their own: Locust's loop carries no frames. See docs/load-tests.md.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import sys
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from locust import HttpUser, LoadTestShape, User, between, events, task
from locust.exception import StopUser
from locust.runners import MasterRunner

from load_tests.legs.gevent_client import GeventLegWorker
from load_tests.swarm.metrics import CallMetrics
from load_tests.swarm.numbers import NUMBERS, caller_number
from load_tests.swarm.stages import Stages, load_stages
from load_tests.swarm.target import Target, TargetError, find_api_key, find_target
from load_tests.swarm.webhooks import encode, event_document, sign

log = logging.getLogger("parley.load")
CONNECT_TIMEOUT_S = 10.0
USERS_PER_PROCESS = 5000

CALLER_SCRIPT: dict[str, Any] = {
    "turns": [
        {"text": "Where can I park my car?"},
        {"text": "Sorry, one more thing.", "barge_in_after_ms": 1500},
        {"text": "What should I bring along?"},
    ],
    "hang_up_after_agent_quiet_ms": 1000,
    "max_duration_s": 120,
}


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Parley")
    parser.add_argument("--api-key", env_var="PARLEY_API_KEY", default="", is_secret=True, help="of ApiUser")
    group.add_argument("--to", env_var="PARLEY_LOAD_TO", default="", help="the number that callers dial (E.164)")
    group.add_argument("--leg-workers", type=int, default=1, help="leg processes per Locust process")
    group.add_argument(
        "--provider-ms", type=float, default=None,
        help="silence, model and voice of every answer, if fixed: subtracted for the added latency",
    )  # fmt: skip
    group.add_argument("--stages", default="", help="YAML file of stages; without it, Locust's own user count")
    group.add_argument("--scale", type=float, default=1.0, help="multiplies the users of every stage")


class _Load:
    """What the users of one Locust process share; there from the start of a test to its end."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.metrics: CallMetrics | None = None
        self.api_key: str | None = None
        self.workers: list[GeventLegWorker] = []
        self.numbers = itertools.count()
        self.next_worker = itertools.count()

    def start(self, environment: Any) -> None:
        options = environment.parsed_options
        target = find_target(environment.host or "", to_number=options.to or None, provider_ms=options.provider_ms)
        metrics = CallMetrics(environment, target.fixed_wait_ms)
        self.target, self.metrics = target, metrics
        self.api_key = find_api_key(options.api_key, target)
        first = getattr(environment.runner, "worker_index", 0) * USERS_PER_PROCESS
        self.numbers = itertools.count(first % NUMBERS)
        texts = [turn["text"] for turn in CALLER_SCRIPT["turns"]]
        for _ in range(max(1, options.leg_workers)):
            self.workers.append(
                GeventLegWorker(texts=texts, on_turn=lambda _id, turn: metrics.turn(turn), on_load=metrics.load)
            )

    def stop(self) -> None:
        for worker in self.workers:
            worker.close()
        self.workers.clear()


LOAD = _Load()


@events.test_start.add_listener
def _start(environment: Any, **_: Any) -> None:
    # A master holds no users.
    if isinstance(environment.runner, MasterRunner):
        return
    try:
        LOAD.start(environment)
    except (TargetError, RuntimeError) as error:
        log.error("%s", error)
        environment.process_exit_code = 2
        environment.runner.quit()


@events.test_stop.add_listener
@events.quitting.add_listener
def _stop(environment: Any, **_: Any) -> None:
    LOAD.stop()


def _target() -> Target:
    if LOAD.target is None:
        raise StopUser
    return LOAD.target


class MediaUser(User):
    """A caller: inbound calls, one after the other, each with three turns and a barge-in."""

    weight = 8
    wait_time = between(1, 4)

    def on_start(self) -> None:
        self.number = caller_number(next(LOAD.numbers))

    @task
    def call(self) -> None:
        target, metrics = _target(), LOAD.metrics
        if metrics is None or not LOAD.workers:
            raise StopUser
        worker = LOAD.workers[next(LOAD.next_worker) % len(LOAD.workers)]
        metrics.call(worker.call(target.opening(self.number), {**CALLER_SCRIPT, "announce_url": target.announce_url}))


class WebhookUser(HttpUser):
    """The network's events of calls that nobody answers: in order, twice, and forged."""

    weight = 1
    wait_time = between(0.2, 1)

    def on_start(self) -> None:
        self.number = caller_number(next(LOAD.numbers))

    def _post(self, name: str, body: bytes, headers: dict[str, str], expected: int) -> None:
        with self.client.post(
            _target().event_url, data=body, headers=headers, name=name, catch_response=True, timeout=CONNECT_TIMEOUT_S
        ) as response:
            if response.status_code != expected:
                response.failure(f"HTTP {response.status_code} instead of {expected}")
            else:
                response.success()

    @task(6)
    def events_of_a_call(self) -> None:
        target, call_uuid = _target(), str(uuid.uuid4())
        for status in ("started", "ringing", "completed"):
            document = event_document(status, call_uuid=call_uuid, from_number=self.number, to_number=target.to_number)
            body = encode(document)
            self._post(f"webhook {status}", body, sign(body, target.account), 200)

    @task(2)
    def duplicate(self) -> None:
        target = _target()
        body = encode(
            event_document("ringing", call_uuid=str(uuid.uuid4()), from_number=self.number, to_number=target.to_number)
        )
        headers = sign(body, target.account)
        self._post("webhook, first", body, headers, 200)
        self._post("webhook, the same again", body, headers, 200)

    @task(2)
    def forged(self) -> None:
        target = _target()
        body = encode(
            event_document(
                "completed", call_uuid=str(uuid.uuid4()), from_number=self.number, to_number=target.to_number
            )
        )
        wrong_key = sign(body, target.account, secret=secrets.token_urlsafe(32))
        self._post("webhook, forged: wrong key", body, wrong_key, 401)
        self._post("webhook, forged: other body", body + b" ", sign(body, target.account), 401)
        self._post("webhook, forged: unsigned", body, {"Content-Type": "application/json"}, 401)


class ApiUser(HttpUser):
    """A program that reads the API; without a key it is not used."""

    weight = 1
    wait_time = between(0.5, 2)

    def on_start(self) -> None:
        if not LOAD.api_key:
            log.warning("ApiUser needs --api-key or PARLEY_API_KEY")
            raise StopUser
        self.client.headers["Authorization"] = f"Bearer {LOAD.api_key}"
        self.known: list[str] = []

    @task(3)
    def list_calls(self) -> None:
        with self.client.get("/api/v1/calls", name="GET calls", catch_response=True) as response:
            if response.ok:
                self.known = [call["id"] for call in response.json().get("items", [])][:20]

    @task(3)
    def read_call(self) -> None:
        for call_id in self.known[:3]:
            self.client.get(f"/api/v1/calls/{call_id}", name="GET a call")
            self.client.get(f"/api/v1/calls/{call_id}/transcript", name="GET a transcript")

    @task(1)
    def health(self) -> None:
        self.client.get("/health", name="GET health")


class StagedShape(LoadTestShape):
    """The stages of `--stages`."""

    use_common_options = True  # no warning about the options that apply without stages

    def __init__(self) -> None:
        super().__init__()
        self._stages: Stages | None = None

    def tick(self) -> tuple[int, float] | None:
        options = _options_of(self.runner)
        if self._stages is None:
            self._stages = load_stages(Path(options.stages))
        return self._stages.at(float(self.get_run_time()), options.scale)  # type: ignore[no-untyped-call]


def _options_of(runner: Any) -> Any:
    return runner.environment.parsed_options


@events.init.add_listener
def _without_stages(environment: Any, **_: Any) -> None:
    """Without `--stages`, Locust's own user count and run time apply."""
    if not environment.parsed_options.stages:
        environment.shape_class = None
