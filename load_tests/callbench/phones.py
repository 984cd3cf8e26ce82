"""The phones: one leg worker that holds the network's end of every call."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from load_tests.callbench.child import MARK
from load_tests.callbench.records import Call, CalleeTurn, Utterance
from load_tests.callbench.scenario import ALL_TURNS, SAMPLE_RATE_HZ, TURNS, Turn, leg_script
from load_tests.legs.client import LegWorker
from load_tests.legs.results import LegResult, Load
from serve_app.simulators.ticker import Lateness


class Phones:
    """`started` gives one; `call` holds a call."""

    def __init__(self, worker: LegWorker) -> None:
        self._worker = worker
        self._seen = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, *, core: int, mark: str) -> AsyncIterator[Phones]:
        """On this core, with all texts spoken. Raises WorkerError."""
        worker = await LegWorker.start(command_prefix=("taskset", "--cpu-list", str(core)), environment={MARK: mark})
        try:
            await worker.prepare([turn.text for turn in ALL_TURNS], sample_rate_hz=SAMPLE_RATE_HZ)
            yield cls(worker)
        finally:
            await worker.close()

    @property
    def pid(self) -> int:
        return self._worker.pid

    async def call(self, call_id: str, opening: Mapping[str, Any], turns: Sequence[Turn] = TURNS) -> Call:
        """From asking to the end, which the script bounds. Does not raise for a call that fails."""
        return record_of(await self._worker.call(opening, leg_script(turns), id=call_id))

    def hang_up(self, call_id: str) -> None:
        """The callee hangs up now; `call` returns what was until then."""
        self._worker.hang_up(call_id)

    def take_lateness(self) -> tuple[float | None, float | None]:
        """(p99, maximum) of the frames sent since the last question, ms late; None where none was."""
        loads, self._seen = self._worker.loads[self._seen :], len(self._worker.loads)
        return lateness_of(loads)


def lateness_of(loads: Sequence[Load]) -> tuple[float | None, float | None]:
    """(p99, maximum) over some seconds."""
    late = Lateness()
    for load in loads:
        late.add_buckets(load.lateness_buckets, load.lateness_max_ms)
    return (round(late.quantile_ms(0.99), 2), round(late.max_ms, 2)) if late.count else (None, None)


def record_of(result: LegResult) -> Call:
    return Call(
        id=result.id,
        asked_at=result.asked_at,
        connected_at=result.connected_at,
        ended_at=result.ended_at if result.ended_at is not None else result.over_at,
        error=result.error,
        refused_status=result.refused_status,
        turns=tuple(
            CalleeTurn(turn.text or "", turn.began_at, turn.last_sound_sent_at, turn.barge_in) for turn in result.turns
        ),
        utterances=tuple(
            Utterance(
                first_sound_at=heard.first_sound_at,
                after_turns=heard.after_turns,
                last_sound_at=heard.last_sound_at,
                underruns=heard.underruns,
                min_depth_ms=heard.min_depth_ms,
                late_ms=heard.max_late_ms,
            )
            for heard in result.utterances
        ),
        clears=result.clears,
        stale_frames=result.stale_frames,
        wrong_size_frames=result.wrong_size,
        refused=result.refused,
    )
