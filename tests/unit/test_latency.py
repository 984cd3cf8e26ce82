"""The record of a reply's latency: its stages add up to the wait, whatever happened, and are held to their budgets."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serve_app.conversation.latency import MEASURES, STAGES, LatencyProbe
from serve_app.errors import SettingsError
from serve_app.latency_budgets import BUDGETED, Budget, LatencyBudgets
from serve_app.paths import configs_dir
from serve_app.settings import load_settings

BUDGETS = LatencyBudgets()
ZERO = 1000.0


def a_probe(**at_ms: float) -> LatencyProbe:
    """A probe with moments in ms after the callee's last sound."""
    times = {f"{moment}_at": ZERO + ms / 1000 for moment, ms in at_ms.items()}
    return LatencyProbe(speech_ended_at=ZERO, **times)  # type: ignore[arg-type]


ORDINARY: dict[str, float] = {
    "turn_ended": 250,
    "first_token": 290,
    "first_sentence": 310,
    "first_audio": 390,
    "first_frame": 395,
    "first_confirmed": 480,
}


def test_every_stage_of_an_ordinary_reply() -> None:
    latency = a_probe(**ORDINARY).latency(BUDGETS)
    assert {name: getattr(latency, name) for name in MEASURES} == {
        "stt_ms": 250,
        "llm_ms": 40,
        "sentence_ms": 20,
        "tts_ms": 80,
        "frame_ms": 5,
        "confirm_ms": 85,
        "total_ms": 395,
    }
    assert latency.within_target is True
    assert latency.over == {}


def test_a_draft_that_was_ready_before_the_turn_ended_took_no_time() -> None:
    moments = {**ORDINARY, "first_token": 180.0, "first_sentence": 220.0, "first_audio": 330.0, "first_frame": 331.0}
    probe = a_probe(**moments)
    probe.speculative = True
    latency = probe.latency(BUDGETS)
    assert (latency.stt_ms, latency.llm_ms, latency.sentence_ms, latency.tts_ms, latency.frame_ms) == (250, 0, 0, 80, 1)
    assert latency.total_ms == 331
    assert latency.speculative


def test_a_prepared_line_has_no_model_stage_and_its_wait_belongs_to_the_next() -> None:
    """A filler 1.2 s after the end of the turn: there was no token, so the wait is the sentence's."""
    latency = a_probe(turn_ended=250, first_sentence=1450, first_audio=1450, first_frame=1452).latency(BUDGETS)
    assert latency.llm_ms is None
    assert (latency.sentence_ms, latency.tts_ms, latency.frame_ms) == (1200, 0, 2)
    assert latency.total_ms == 1452
    assert latency.within_target is False
    assert latency.over == {"total_ms": "limit"}


def test_a_line_that_answers_nobody_has_stages_but_no_total() -> None:
    probe = LatencyProbe(first_sentence_at=5.0, first_audio_at=5.1, first_frame_at=5.102)
    latency = probe.latency(BUDGETS)
    assert (latency.tts_ms, latency.frame_ms) == (100, 2)
    assert latency.total_ms is None and latency.within_target is None


def test_what_never_began_measures_nothing() -> None:
    latency = LatencyProbe().latency(BUDGETS)
    assert [getattr(latency, name) for name in MEASURES] == [None] * len(MEASURES)
    assert latency.over == {} and latency.within_target is None


def test_a_reply_that_never_sounded_has_no_total() -> None:
    latency = a_probe(turn_ended=250, first_token=300).latency(BUDGETS)
    assert (latency.stt_ms, latency.llm_ms, latency.total_ms, latency.confirm_ms) == (250, 50, None, None)


def test_each_stage_is_held_to_its_own_budget() -> None:
    moments = {"turn_ended": 280.0, "first_token": 400.0, "first_sentence": 400.0, "first_audio": 490.0}
    latency = a_probe(**moments, first_frame=500, first_confirmed=9000).latency(BUDGETS)
    # STT 280 is above 260; the model's 120 above 100; the voice's 90 is just its target; the total 500 above 400.
    assert latency.over == {"stt_ms": "target", "llm_ms": "limit", "total_ms": "target"}
    assert latency.within_target is False


def test_the_wait_of_a_silent_utterance_is_carried_to_what_is_heard_in_its_place() -> None:
    silent = a_probe(turn_ended=250, first_token=300)
    silent.causes += ["tts: no audio"]
    apology = LatencyProbe(first_sentence_at=ZERO + 6, first_audio_at=ZERO + 6, first_frame_at=ZERO + 6.01)
    apology.causes += ["gave up"]
    apology.carry_over(silent)
    latency = apology.latency(BUDGETS)
    assert latency.total_ms == 6010
    assert latency.causes == ("tts: no audio", "gave up")


def test_a_reply_to_something_newer_keeps_its_own_clock() -> None:
    old, new = a_probe(turn_ended=250), LatencyProbe(speech_ended_at=ZERO + 5, first_frame_at=ZERO + 5.3)
    old.causes += ["late"]
    new.carry_over(old)
    latency = new.latency(BUDGETS)
    assert latency.total_ms == 300 and latency.causes == ("late",)


moments = st.one_of(st.none(), st.floats(-2000, 20_000, allow_nan=False))


@given(
    speech=st.one_of(st.none(), st.floats(0, 1e6)),
    after=st.fixed_dictionaries(dict.fromkeys(ORDINARY, moments)),
)
def test_stages_add_up_and_none_is_negative(speech: float | None, after: dict[str, float | None]) -> None:
    """In any order, with any of them missing: also what a draft or a wrong clock of words would give."""
    base = speech if speech is not None else 500.0
    times = {f"{name}_at": None if ms is None else base + ms / 1000 for name, ms in after.items()}
    latency = LatencyProbe(speech_ended_at=speech, **times).latency(BUDGETS)  # type: ignore[arg-type]
    stages = [ms for name in STAGES if (ms := getattr(latency, name)) is not None]
    assert all(ms >= 0 for ms in stages)
    assert latency.confirm_ms is None or latency.confirm_ms >= 0
    assert (latency.total_ms is None) == (speech is None or after["first_frame"] is None)
    if latency.total_ms is not None:
        assert sum(stages) == pytest.approx(latency.total_ms, abs=0.05)
        assert latency.within_target == (latency.total_ms <= BUDGETS.total_ms.target_ms)
        assert ("total_ms" in latency.over) == (not latency.within_target)


def test_the_default_budgets() -> None:
    found = {name: (budget.target_ms, budget.limit_ms) for name, budget in BUDGETS}
    assert found == {"stt_ms": (260, 300), "llm_ms": (50, 100), "tts_ms": (90, 150), "total_ms": (400, 700)}
    assert set(BUDGETED) == set(found) <= set(MEASURES)


def test_a_target_above_its_limit_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValidationError, match=r"target_ms \(500\) is above limit_ms \(400\); lower it"):
        Budget(target_ms=500, limit_ms=400)
    assert Budget(target_ms=400, limit_ms=400).excess(400) is None


def test_a_wrong_budget_in_the_file_is_named_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "parley.yaml"
    file.write_text("call: {budgets: {llm_ms: {target_ms: 200, limit_ms: 100}}}")
    with pytest.raises(SettingsError, match=r"call\.budgets\.llm_ms: .*target_ms \(200\) is above limit_ms \(100\)"):
        load_settings(file)
    file.write_text("call: {budgets: {lm_ms: {target_ms: 50, limit_ms: 100}}}")
    with pytest.raises(SettingsError, match=r"call\.budgets\.lm_ms: unknown key; did you mean 'llm_ms'"):
        load_settings(file)


def test_the_shipped_file_has_the_default_budgets() -> None:
    assert load_settings(configs_dir() / "parley.yaml").call.budgets == LatencyBudgets()
