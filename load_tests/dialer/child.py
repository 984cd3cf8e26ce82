"""Processes that end with the one that started them, however that ended."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any

import uvloop

START_S = 60.0
CONNECT_S = 30.0
"""To SQL and Redis, on a machine that these runs keep busy."""
Work = Callable[..., Coroutine[Any, Any, None]]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["load_tests.dialer.preload"])


class Child:
    """A process that runs `work(pipe, *arguments)` on a loop of its own; `work` is a coroutine function of a module."""

    def __init__(self, work: Work, *arguments: object) -> None:
        self._name = work.__module__
        self._pipe, theirs = _FORKS.Pipe(duplex=False)
        self._process = _FORKS.Process(target=_run, args=(work, (theirs, *arguments)), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    async def ready(self) -> int:
        """Wait until it is up; the port at which it listens, if it does. Raises RuntimeError if it never is."""
        with self._pipe:
            try:
                if await asyncio.to_thread(self._pipe.poll, START_S):
                    return int(self._pipe.recv())
            except EOFError:
                pass
        raise RuntimeError(f"{self._name} did not start within {START_S:g} s; its error is above, if it told one")

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def killed(self) -> bool:
        """It ended by SIGKILL, and not by itself."""
        return self._process.exitcode == -signal.SIGKILL

    async def dead(self, timeout_s: float) -> bool:
        """Wait for its end. False: it lives on."""
        if not self.alive:
            return True
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        return True

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        await self.dead(START_S)


async def prepare() -> None:
    """Have what all children are forked from import its modules, which would hold up this loop for seconds."""
    first = _FORKS.Process(target=int)
    await asyncio.to_thread(first.start)
    await asyncio.to_thread(first.join)


def say_ready(pipe: Connection, port: int = 0) -> None:
    """Of a child: it is up, and listens there."""
    pipe.send(port)
    pipe.close()


def _run(work: Work, arguments: tuple[object, ...]) -> None:
    # Ctrl-C goes to the whole group: the parent decides what ends when.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_until_parent_ends(work(*arguments)))


async def _until_parent_ends(work: Coroutine[Any, Any, None]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    orphaned = asyncio.Event()
    asyncio.get_running_loop().add_reader(parent.sentinel, orphaned.set)
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(orphaned.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not working.done():
        working.cancel()
    await asyncio.gather(working, return_exceptions=orphaned.is_set())
