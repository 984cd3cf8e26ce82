"""The load side: phones and simulated providers, each a process of its own on the load side's core."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from load_tests.callbench.observed import LoadFigures
from load_tests.callbench.phones import Phones
from load_tests.callbench.processes import ProcessTree
from load_tests.callbench.providers import SimulatedProviders
from load_tests.callbench.records import Call, SttTurn
from load_tests.callbench.scenario import TURNS, Turn


class LoadSide:
    """`start` and `stop` block; in between, `phones()` is held open inside an event loop."""

    def __init__(self, *, core: int, mark: str, folder: Path) -> None:
        self._core, self._mark, self._folder = core, mark, folder
        self._providers: SimulatedProviders | None = None
        self._phones: Phones | None = None

    def start(self) -> None:
        """Raises UnavailableError."""
        self._providers = SimulatedProviders(core=self._core, mark=self._mark, folder=self._folder)

    def stop(self) -> None:
        providers, self._providers = self._providers, None
        if providers is not None:
            providers.stop()

    @property
    def simulators_url(self) -> str:
        return self._of_providers().url

    @contextlib.asynccontextmanager
    async def phones(self) -> AsyncIterator[None]:
        """Phones that can call, until the block is left."""
        async with Phones.started(core=self._core, mark=self._mark) as phones:
            self._phones = phones
            try:
                yield
            finally:
                self._phones = None

    def tree(self) -> ProcessTree:
        """The providers' and the phones' processes."""
        return ProcessTree([self._of_providers().pid, self._of_phones().pid], _group)

    async def call(self, call_id: str, opening: Mapping[str, Any], turns: Sequence[Turn] = TURNS) -> Call:
        return await self._of_phones().call(call_id, opening, turns)

    def hang_up(self, call_id: str) -> None:
        self._of_phones().hang_up(call_id)

    async def begin_figures(self) -> None:
        """Forget the lateness of what was before."""
        await self._of_providers().take()
        self._of_phones().take_lateness()

    async def figures(self) -> LoadFigures:
        """The load side's own lateness since `begin_figures`."""
        taken = await self._of_providers().take()
        p99_ms, max_ms = self._of_phones().take_lateness()
        return LoadFigures(p99_ms, max_ms, taken["lateness_p99_ms"])

    async def streams(self) -> list[Sequence[SttTurn]]:
        """The turns of every transcription stream so far."""
        providers = self._of_providers()
        await providers.take()
        return providers.streams.all()

    def _of_providers(self) -> SimulatedProviders:
        assert self._providers is not None, "start first"
        return self._providers

    def _of_phones(self) -> Phones:
        assert self._phones is not None, "hold phones() open"
        return self._phones


def _group(name: str, command_line: str) -> str:
    return "providers" if "simulators" in command_line else "phones"
