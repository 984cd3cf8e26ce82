"""The recording's clock: samples where they were, gaps where something was lost, nothing where it was only late."""

from __future__ import annotations

import asyncio
import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.audio.g711 import mulaw_encode
from serve_app.audio.mix import PartPlace, mix_parts, parts_prefix
from serve_app.conversation.recorder import PUT_TRIES, QUEUE_PARTS, Recorder
from serve_app.errors import UnavailableError
from serve_app.providers.base import AudioFormat
from serve_app.scenarios.virtual_time import LoopClock, run_virtual

RATE = 8000
SAMPLES = 160
LINEAR = AudioFormat("linear16", RATE)


class Store:
    def __init__(self, failures: int = 0) -> None:
        self.parts: dict[str, bytes] = {}
        self.failures = failures
        self.puts = 0

    async def put(self, key: str, data: bytes) -> None:
        self.puts += 1
        if self.failures:
            self.failures -= 1
            raise UnavailableError("down")
        self.parts[key] = data


def frame(number: int) -> bytes:
    return np.full(SAMPLES, number % 30000 + 1, dtype="<i2").tobytes()


def recorder(store: Store, audio: AudioFormat = LINEAR, zero: float = 0.0) -> Recorder:
    made = Recorder("t", "c", store, part_s=5, clock=LoopClock())
    made.open(audio, zero)
    return made


def written(made: Recorder, store: Store) -> np.ndarray:
    made.close()
    run_virtual(made.run())
    return mix_parts(store.parts.items(), RATE, None)


def test_frames_that_follow_each_other_are_one_run_in_parts_of_five_seconds() -> None:
    store = Store()
    made = recorder(store)
    for i in range(600):
        made.callee(frame(i), 0.02 * (i + 1))
    left = written(made, store)[:, 0]
    assert left.tobytes() == b"".join(frame(i) for i in range(600))
    assert [len(p) / 2 / RATE for p in store.parts.values()] == [5, 5, 2]
    assert list(store.parts) == [PartPlace("callee", n * 5 * RATE, RATE).key(parts_prefix("t", "c")) for n in range(3)]


def test_jitter_and_a_stall_that_catches_up_move_nothing() -> None:
    store = Store()
    made = recorder(store)
    for i in range(400):
        # Frames 100 to 120 are held back and arrive together, 400 ms late.
        arrival = 2.42 if 100 <= i < 121 else 0.02 * (i + 1) + (i % 3) * 0.03
        made.callee(frame(i), arrival)
    assert written(made, store)[:, 0].tobytes() == b"".join(frame(i) for i in range(400))


def test_lost_audio_leaves_a_gap_and_what_follows_is_in_its_place() -> None:
    store = Store()
    made = recorder(store)
    for i in [*range(100), *range(150, 300)]:
        made.callee(frame(i), 0.02 * (i + 1))
    left = written(made, store)[:, 0]
    assert len(left) == 300 * SAMPLES
    assert not left[100 * SAMPLES : 150 * SAMPLES].any()
    for i in (0, 99, 150, 299):
        assert left[i * SAMPLES] == i + 1


def test_a_gap_at_the_very_end_of_the_call_is_kept() -> None:
    store = Store()
    made = recorder(store)
    for i in [*range(50), *range(90, 95)]:
        made.callee(frame(i), 0.02 * (i + 1))
    left = written(made, store)[:, 0]
    assert len(left) == 95 * SAMPLES


def test_the_agent_is_placed_by_the_time_of_playing() -> None:
    store = Store()
    made = recorder(store, zero=100.0)
    for i in range(50):
        made.agent(frame(i), 101.0 + i * 0.02)
    for i in range(50):
        made.agent(frame(i), 103.5 + i * 0.02)
    right = written(made, store)[:, 1]
    assert len(store.parts) == 2
    speech = b"".join(frame(i) for i in range(50))
    assert right[RATE : 2 * RATE].tobytes() == speech
    assert right[int(3.5 * RATE) :].tobytes() == speech
    assert not right[2 * RATE : int(3.5 * RATE)].any()


def test_an_agents_part_does_not_wait_for_its_next_words() -> None:
    store = Store()
    made = recorder(store)

    async def call() -> None:
        writing = asyncio.create_task(made.run())
        made.agent(frame(1), 0.0)
        for i in range(300):
            made.callee(frame(i), 0.02 * (i + 1))
        await asyncio.sleep(0.1)
        assert any("agent" in key for key in store.parts)
        made.close()
        await writing

    run_virtual(call())


def test_mulaw_is_stored_as_linear16() -> None:
    store = Store()
    made = recorder(store, AudioFormat("mulaw", RATE))
    pcm = np.full(SAMPLES, 1000, dtype="<i2").tobytes()
    made.callee(mulaw_encode(pcm), 0.02)
    made.agent(mulaw_encode(pcm), 0.02)
    timeline = written(made, store)
    assert timeline.shape == (2 * SAMPLES, 2)
    assert abs(int(timeline[0, 0]) - 1000) < 40


def test_a_store_that_comes_back_loses_nothing_and_one_that_does_not_ends_anyway() -> None:
    store = Store(failures=PUT_TRIES - 1)
    made = recorder(store)
    made.callee(frame(1), 0.02)
    assert len(written(made, store)) == SAMPLES
    assert (made.parts_stored, made.parts_lost) == (1, 0)
    dead = Store(failures=10_000)
    made = recorder(dead)
    made.callee(frame(1), 0.02)
    made.close()
    run_virtual(made.run())
    assert (made.parts_lost, dead.puts) == (1, PUT_TRIES)


def test_a_store_that_hangs_never_grows_the_queue_without_bound() -> None:
    made = recorder(Store())
    for i in range(QUEUE_PARTS * 3):
        made.agent(frame(i), i * 1.0)
    assert made.parts_lost >= QUEUE_PARTS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 120), st.integers(0, 100)), min_size=1, max_size=6))
def test_no_sample_is_lost_whatever_is_missing(spans: list[tuple[int, int]]) -> None:
    store = Store()
    made = recorder(store)
    now, sent = 0.0, b""
    number = 0
    for count, missing in spans:
        for _ in range(count):
            now += 0.02
            number += 1
            made.callee(frame(number), now)
            sent += frame(number)
        now += missing * 0.02
    made.close()
    run_virtual(made.run())
    stored = sorted(store.parts.items(), key=lambda part: PartPlace.parse(part[0]).offset_samples)
    assert b"".join(data for _, data in stored) == sent
    end = max(PartPlace.parse(key).offset_samples + len(data) // 2 for key, data in stored)
    # Never longer than the clock, never behind it by more than a gap that is too short to be one.
    assert end <= round(now * RATE) + 1
    for (key, data), (later, _) in itertools.pairwise(stored):
        assert PartPlace.parse(key).offset_samples + len(data) // 2 <= PartPlace.parse(later).offset_samples
