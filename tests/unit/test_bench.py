"""The quick benchmarks run and tell something: their own counts are asserted inside them, times are not."""

from __future__ import annotations

import gc

import psutil
import pytest

from load_tests import bench
from load_tests.chaos import FAULTS
from load_tests.micro import figures, garbage, media, niceness
from load_tests.micro.codec_pool import transcode_with_history
from load_tests.micro.figures import Figure
from serve_app.audio import g711
from serve_app.audio.resample import StreamResampler


def test_every_benchmark_prints_aim_figure_and_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (figures, media):
        monkeypatch.setattr(module, "ROUNDS", 1)
    shown: list[Figure] = []
    monkeypatch.setattr(
        bench, "print_figures", lambda title, found: (shown.extend(found), figures.print_figures(title, found))
    )
    assert bench.main() == 0
    assert len(shown) >= 13
    assert all(value > 0 for figure in shown for value in figure.rounds)
    printed = capsys.readouterr().out
    assert all(row.name in printed for row in (*shown, *FAULTS))
    # The legend of the last table has the word, too.
    assert printed.count("PASS") + printed.count("MISS") == len(shown) + len(FAULTS) + 1


def test_a_rate_passes_above_its_aim_and_a_cost_below() -> None:
    assert Figure("rate", 10, "per s", [11, 12, 13], at_least=True).passed
    assert not Figure("rate", 10, "per s", [8, 9, 30], at_least=True).passed
    assert Figure("cost", 10, "us", [8, 9, 30]).passed
    assert not Figure("cost", 10, "us", [11, 12, 13]).passed


def test_what_the_pool_makes_of_frames_is_as_much_as_what_a_session_makes() -> None:
    frame = g711.mulaw_encode(bytes(320))
    stream, frames = StreamResampler(8000, 16000), 50
    own = b"".join(stream.process(g711.mulaw_decode(frame)) for _ in range(frames)) + stream.flush()
    assert len(own) == len(transcode_with_history(frame, frame)) * frames == 640 * frames


def test_a_settled_process_collects_in_a_fraction_of_the_time_and_is_left_as_it_was() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    unsettled, settled = garbage.full_collection()
    assert settled.median < unsettled.median / 5
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_lateness_is_told_for_every_tick_and_the_busy_processes_end() -> None:
    before = set(psutil.Process().children())
    late = niceness.measure(0, 0.2, busy=2)
    assert len(late) >= 10
    # A tick is never early; what the sum rounds away is no time.
    assert min(late) > -0.01
    assert set(psutil.Process().children()) == before
    assert niceness.share([3.0, 1.0, 2.0], 0.5) == 2.0 and niceness.share([3.0, 1.0, 2.0], 1.0) == 3.0
