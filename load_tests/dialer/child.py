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
Work = Callable[..., Coroutine[Any, Any, None]]

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["load_tests.dialer.preload"])


class Child:
    """A process that runs `work(*arguments)`, a coroutine function of a module, on a loop of its own."""

    def __init__(self, work: Work, *arguments: object) -> None:
        self._process = _FORKS.Process(target=_run, args=(work, arguments), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

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


async def start_server(work: Work, *arguments: object) -> tuple[Child, int]:
    """A child whose `work` gets a pipe as its first argument, and the port that it sends there once it listens.

    Raises RuntimeError if it sends none.
    """
    ours, theirs = _FORKS.Pipe(duplex=False)
    child = Child(work, theirs, *arguments)
    theirs.close()
    with ours:
        try:
            if not await asyncio.to_thread(ours.poll, START_S):
                raise RuntimeError(f"{work.__module__} does not listen after {START_S:g} s")
            return child, int(ours.recv())
        except EOFError as error:
            raise RuntimeError(f"{work.__module__} ended before it listened; its error is above") from error


def tell_port(pipe: Connection, port: int) -> None:
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
