"""Finding a running platform, or starting one with `serve run` and stopping it without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from serve_app.errors import ParleyError, UnavailableError
from serve_app.media_address import is_local
from serve_app.paths import serve_config
from serve_app.settings import ServerSettings, Settings, load_settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState

START_TIMEOUT_S = 180.0
# While everything starts, what answers does so slowly.
FIRST_ANSWER_S = 10.0
# Serve would wait for the calls that are up; nobody waits an hour for Ctrl-C.
STOP_TIMEOUT_S = 8.0
# In front of the shipped file, started here, stands Serve's own proxy and no other load balancer: it knows at once of a
# replica that goes. Even an idle one would else be waited for at every stop.
DRAINING_VARIABLE, DRAINING_S = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1"
REPLICA_PORTS = 100
KEY_LINE = re.compile(r"(API key of tenant .*?: )(pk_\S+)")
# What a failed start says, in the words of our own errors.
FAILURE = re.compile(r"(?:SettingsError|UnavailableError|AtCapacityError|ParleyError): (.+)")


class StartError(ParleyError):
    """The platform did not start. The message says why, and what to do."""


def probe(url: str, timeout_s: float = 1.5) -> dict[str, Any] | None:
    """The `/health` document of the platform at `url`; None if nothing, or something else, answers there."""
    try:
        answer = httpx.get(f"{url}/health", timeout=timeout_s)
        document = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return document if isinstance(document, dict) and "simulated_network" in document else None


def free_port() -> int:
    """A TCP port of loopback that is free now."""
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def _media_is_served(url: str) -> bool:
    # The ingress answers a plain request with 426; while it is not there, Serve answers 404 or 503.
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/media", timeout=FIRST_ANSWER_S).status_code == 426
    return False


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind((host, port))
        except OSError:
            return False
    return True


def holder_of(port: int) -> str:
    """The process that listens on a port, for an error message."""
    with contextlib.suppress(psutil.Error, PermissionError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({process.name()})"
    return "another process"


async def check_services(settings: Settings) -> None:
    """Connect to the SQL and Redis servers that the settings name, before Ray starts. Raises UnavailableError."""
    if settings.database.url is not None:
        db = await Database.connect(settings.database.url, connect_timeout_s=settings.database.connect_timeout_s)
        await db.aclose()
    if settings.redis.url is not None:
        live = await LiveState.connect(settings.redis.url, connect_timeout_s=settings.redis.connect_timeout_s)
        await live.aclose()


@dataclass(frozen=True, slots=True)
class Ports:
    http: int
    media: int | None
    """The ingress' own listener; None: media passes Serve's proxy."""
    haproxy_metrics: int
    haproxy_stats: int
    replicas_from: int
    """The first of `REPLICA_PORTS` ports for the ingress replicas behind HAProxy, and its fallback proxy."""

    def variables(self) -> dict[str, str]:
        """What tells Ray Serve and the ingress to use them."""
        last = self.replicas_from + REPLICA_PORTS - 1
        media = {} if self.media is None else {"PARLEY_SERVER__MEDIA_PORT": str(self.media)}
        return {
            **media,
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(self.haproxy_metrics),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(self.haproxy_stats),
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(self.replicas_from),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(last - 1),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(last),
        }


def choose_ports(http: int | None, server: ServerSettings) -> Ports:
    """The HTTP port asked for (None: a free one), the media port, and free ones for HAProxy's own.

    Raises StartError if one that others know by its number is taken.
    """
    if http is not None and not port_is_free(http):
        raise StartError(
            f"port {http} is taken by {holder_of(http)}; stop that, or choose another port with --port "
            "(--port 0 takes a free one)"
        )
    metrics = 9101 if port_is_free(9101, "0.0.0.0") else free_port()  # noqa: S104
    stats = 8404 if port_is_free(8404, "0.0.0.0") else free_port()  # noqa: S104
    http = http or free_port()
    return Ports(http, _media_port(http, server), metrics, stats, _free_block(REPLICA_PORTS))


def _media_port(http: int, server: ServerSettings) -> int | None:
    """The configured one. Where only the simulated network has to know it, another platform takes a free one."""
    port = server.media_port
    if port is None:
        return None
    told = is_local(str(server.public_url)) and server.media_url is None
    if told and http != server.public_url.port:
        return free_port()
    if port_is_free(port, server.media_host):
        return port
    if told:
        return free_port()
    raise StartError(
        f"port {port} (server.media_port) is taken by {holder_of(port)}; stop that, or set MEDIA_PORT to another port, "
        "and lead the load balancer's /media there"
    )


def _free_block(size: int) -> int:
    """The first port of a free block, below the ephemeral ports.

    Serve's replicas share their ports (SO_REUSEPORT): with the default range, two platforms on one machine would answer
    each other's requests.
    """
    blocks = list(range(20_000, 30_000, size))
    random.shuffle(blocks)
    for first in blocks:
        if all(port_is_free(port) for port in range(first, first + size)):
            return first
    raise StartError(f"no {size} free ports in a row between 20000 and 30000; stop other platforms on this machine")


def derive_config(ports: Ports, template: Path | None = None) -> dict[str, Any]:
    """`serve_config.yaml` with the port set. Off Linux there is no HAProxy binary, and Serve's own proxy is used."""
    document: dict[str, Any] = yaml.safe_load((template or serve_config()).read_text(encoding="utf-8"))
    document["http_options"]["port"] = ports.http
    if sys.platform != "linux":
        document.pop("controller_options", None)
    return document


@contextlib.contextmanager
def _interruptible_children() -> Iterator[None]:
    """Processes started here take SIGINT, which tells `serve run` to stop. A shell's background job ignores it, and
    they would inherit that. Signals are the main thread's to set."""
    main = threading.current_thread() is threading.main_thread()
    ignored = main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class Platform:
    """A platform that this process started. `stop` ends every process of it."""

    def __init__(
        self,
        *,
        port: int | None,
        config: Path | None = None,
        show: Callable[[str], None] = print,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._show = show
        self._start_timeout_s = start_timeout_s
        self._ports = choose_ports(port, load_settings().server)
        self._template = config
        self._process: subprocess.Popen[str] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="parley-up-"))
        self._tail: deque[str] = deque(maxlen=400)
        self._failure: str | None = None
        self._family: dict[int, psutil.Process] = {}
        self.url = f"http://127.0.0.1:{self._ports.http}"
        self.log_file: Path | None = None

    def start(self) -> dict[str, Any]:
        """Start and wait until calls can be placed. Returns `/health`. Raises ParleyError."""
        environment = self._environment()
        settings = load_settings()
        asyncio.run(check_services(settings))
        config = self._folder / "serve_config.yaml"
        config.write_text(yaml.safe_dump(self._config()), encoding="utf-8")
        logs = settings.data_dir.expanduser() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log_file = logs / f"platform-{time.strftime('%Y%m%d-%H%M%S')}-{self._ports.http}.log"
        serve = shutil.which("serve", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if serve is None:
            raise StartError("the command `serve` is missing; install Parley with its dependencies (make setup)")
        # A session of its own: Ctrl-C in the terminal reaches this process only, which then stops the rest in order.
        with _interruptible_children():
            self._process = subprocess.Popen(  # noqa: S603
                [serve, "run", str(config)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=environment,
                start_new_session=True,
            )
        threading.Thread(target=self._read_output, daemon=True).start()
        began = time.monotonic()
        health = self._wait_ready()
        self._show(f"ready after {time.monotonic() - began:.0f} s")
        return health

    def _config(self) -> dict[str, Any]:
        document = derive_config(self._ports, self._template)
        if self._template is None and "controller_options" in document:
            document["controller_options"]["runtime_env"]["env_vars"][DRAINING_VARIABLE] = DRAINING_S
        return document

    def stop(self) -> None:
        """End the platform: in order if it can be, by force if it must be. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            self._remember(process.pid)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(STOP_TIMEOUT_S)
            # Ray ends its processes; what a killed one left (HAProxy is one) is ended here, by its id.
            survivors = [member for member in self._family.values() if member.is_running()]
            _, alive = psutil.wait_procs(survivors, timeout=5)
            for member in alive:
                with contextlib.suppress(psutil.Error):
                    member.terminate()
            for member in psutil.wait_procs(alive, timeout=3)[1]:
                with contextlib.suppress(psutil.Error):
                    member.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Block until the platform ends by itself."""
        assert self._process is not None
        return self._process.wait()

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        # The simulated network reaches this machine at the port that was chosen; a real one comes by the address of a
        # load balancer or tunnel, which only its owner knows.
        if is_local(load_settings().public_url):
            environment["PARLEY_SERVER__PUBLIC_URL"] = self.url
        environment.update(
            {
                # A platform of its own: not whatever Ray cluster happens to run on this machine.
                "RAY_ADDRESS": "local",
                "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                **self._ports.variables(),
                "OMP_NUM_THREADS": "1",
                "PYTHONUNBUFFERED": "1",
            }
        )
        return environment

    def _read_output(self) -> None:
        process = self._process
        assert process is not None and process.stdout is not None and self.log_file is not None
        with self.log_file.open("a", encoding="utf-8") as log:
            for line in process.stdout:
                key = KEY_LINE.search(line)
                if key:
                    self._show(f"{key.group(1)}{key.group(2)}")
                failure = FAILURE.search(line)
                if failure:
                    self._failure = failure.group(1).strip()
                log.write(KEY_LINE.sub(r"\1<shown once>", line))
                log.flush()
                self._tail.append(line.rstrip())

    def _wait_ready(self) -> dict[str, Any]:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise StartError(f"the platform ended with code {self._process.returncode}: {self._why()}")
            if self._failure is not None:
                raise StartError(self._failure)
            self._remember(self._process.pid)
            health = probe(self.url, FIRST_ANSWER_S)
            if health is not None and (health["capacity"]["slots"] or 0) > 0 and _media_is_served(self.url):
                return health
            time.sleep(0.3)
        raise StartError(f"the platform was not ready within {self._start_timeout_s:.0f} s: {self._why()}")

    def _why(self) -> str:
        if self._failure is not None:
            return self._failure
        telling = [line for line in self._tail if "Error" in line or "ERROR" in line]
        return (telling[-1] if telling else "no error was printed") + f"; the whole log is {self.log_file}"

    def _remember(self, pid: int) -> None:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(pid).children(recursive=True):
                self._family[child.pid] = child


@contextlib.contextmanager
def running_platform(*, show: Callable[[str], None]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A platform to place a call with: the one that runs, else one on free ports that is stopped afterwards.

    Yields its URL and `/health`. Raises ParleyError.
    """
    url = os.environ.get("PARLEY_URL", "").rstrip("/")
    if url:
        health = probe(url)
        if health is None:
            raise UnavailableError(f"no Parley platform answers at {url} (PARLEY_URL)")
        yield url, health
        return
    url = load_settings().public_url
    health = probe(url) if is_local(url) else None
    if health is not None:
        yield url, health
        return
    show("no platform is running: starting one on free ports")
    platform = Platform(port=None, show=show)
    try:
        health = platform.start()
        yield platform.url, health
    finally:
        show("stopping the platform")
        platform.stop()
