"""The scale benchmark's arithmetic: what it asks for, what it concludes. No platform is started."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from load_tests.scale.report import judge, write
from load_tests.scale.scenario import CALLS_PER_PROCESS, CHANGES, CONTROL, RAMP, SCENARIOS, Scenario, with_new_args
from load_tests.scale.traffic import Placed, _fate, callee
from load_tests.scale.watch import MINIMUM, Sample, Watcher
from serve_app.paths import serve_config
from serve_app.simulators.callee import CalleeBehaviour

AT_MINIMUM = {name: {"RUNNING": count} for name, count in MINIMUM.items()}


def a_call(**over: Any) -> Placed:
    told = {"answered_s": 1.0, "media_s": 1.1, "ended_s": 90.0, "first_audio_s": 0.8, "fate": "completed"} | over
    return Placed(direction="inbound", number="1", asked_s=0.5, **told)


def a_sample(**over: Any) -> Sample:
    nothing = dict.fromkeys(("wanted", "open", "talking", "completed", "refused", "not_placed", "cut"), 0)
    told = {"at_s": 0.0, **nothing, "slots": 4, "slots_used": 0, "lag_p95_ms": 1.0, "replicas": AT_MINIMUM} | over
    return Sample(**told)


def misses(scenario: Scenario, calls: list[Placed], samples: list[Sample]) -> list[str]:
    return [verdict.aim for verdict in judge(scenario, calls, samples) if not verdict.passed]


def test_the_profile_is_linear_between_its_points() -> None:
    scenario = replace(RAMP, profile=((0, 0), (10, 5), (20, 5), (30, 0)))
    assert [scenario.wanted(at) for at in (0, 2, 10, 15, 25, 30, 99)] == [0, 1, 5, 5, 2, 0, 0]
    assert (scenario.full, scenario.duration_s) == (5, 30)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=str)
def test_calls_outlive_the_limits_that_they_are_to_outlive(scenario: Scenario) -> None:
    assert scenario.call_s > max(scenario.draining_s, scenario.hard_stop_s)
    CalleeBehaviour.model_validate(callee(scenario.call_s))


def test_the_config_is_the_shipped_one_with_little_room() -> None:
    shipped = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    document = RAMP.document(shipped)
    assert document["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "20"
    (sessions,) = [d for d in document["applications"][0]["deployments"] if d["name"] == "CallSessions"]
    assert sessions["max_ongoing_requests"] == sessions["user_config"]["max_calls"] == CALLS_PER_PROCESS
    assert sessions["autoscaling_config"]["policy"] == {"policy_function": "deployments.autoscaling:session_policy"}
    assert "PARLEY_SERVER__MEDIA_PORT" not in document["controller_options"]["runtime_env"]["env_vars"]
    control = CONTROL.document(shipped)["controller_options"]["runtime_env"]["env_vars"]
    assert control["PARLEY_SERVER__MEDIA_PORT"] == ""
    ingress = next(d for d in document["applications"][0]["deployments"] if d["name"] == "MediaIngress")
    assert ingress["autoscaling_config"]["target_ongoing_requests"] == RAMP.sockets_per_ingress
    assert all(a["args"] == {"config": "f"} for a in with_new_args(document, "f")["applications"])
    assert shipped == yaml.safe_load(serve_config().read_text(encoding="utf-8"))


def test_a_cut_call_a_late_one_and_one_left_open_each_miss() -> None:
    good = [a_call(), a_call()]
    assert misses(CHANGES, good, [a_sample()]) == []
    assert "no call cut" in misses(CHANGES, [*good, a_call(fate="cut", detail="1006")], [a_sample()])
    assert misses(CHANGES, [*good, a_call(first_audio_s=9.0)], [a_sample()]) == ["no call's first audio later than 4 s"]
    assert misses(CHANGES, [*good, a_call(fate="open", ended_s=None)], [a_sample()]) == ["every call has ended"]


def test_short_calls_prove_nothing() -> None:
    assert misses(CHANGES, [a_call(ended_s=10.0)], [a_sample()]) == ["calls outlive Serve's limits, 20 s"]


def test_replicas_that_stay_or_drain_on_miss() -> None:
    draining = AT_MINIMUM | {"MediaIngress": {"RUNNING": 1, "STOPPING": 1}}
    assert misses(CHANGES, [a_call()], [a_sample(replicas=draining)]) == ["all deployments back at their minimum"]


def test_the_control_misses_unless_it_cuts() -> None:
    assert misses(CONTROL, [a_call()], [a_sample()]) == ["the control cuts calls, so that the others can fail"]
    assert misses(CONTROL, [a_call(fate="cut")], [a_sample()]) == []


def test_a_ramp_must_show_growth_and_clean_refusals() -> None:
    grown = AT_MINIMUM | {"CallSessions": {"RUNNING": 5}, "CodecPool": {"RUNNING": 2}, "MediaIngress": {"RUNNING": 2}}
    waited = replace(a_call(), direction="outbound", asked_s=-20.0)
    refused = replace(a_call(fate="refused", detail="spoken apology", first_audio_s=None, media_s=None), asked_s=65.0)
    samples = [a_sample(replicas=grown), a_sample()]
    assert misses(RAMP, [a_call(), waited, refused], samples) == []
    assert misses(RAMP, [a_call(), waited, refused], [a_sample()]) == [
        "session replicas grow to hold the calls",
        "codec replicas grow with their queue",
        "ingress replicas grow with their sockets",
    ]
    assert "beyond capacity inbound calls hear an apology" in misses(RAMP, [a_call(), waited], samples)
    early = replace(refused, asked_s=30.0)
    assert misses(RAMP, [a_call(), waited, refused, early], samples) == ["no call refused below capacity"]


def media(**over: Any) -> dict[str, Any]:
    return {"end": "near_closed", "close_code": 1000} | over


def seen(**over: Any) -> dict[str, Any]:
    usual = {"talk_texts": [], "media": media(), "disconnected_by": "user", "problem": None, "statuses": ["answered"]}
    return usual | over


def test_only_a_callee_who_hung_up_has_completed_the_call() -> None:
    assert _fate(seen())[0] == "completed"
    assert _fate(seen(disconnected_by="platform", media=media(end="far_closed", close_code=1006)))[0] == "cut"
    assert _fate(seen(media=None))[0] == "cut"
    apology = "We are sorry, all our lines are busy at the moment."
    assert _fate(seen(media=None, talk_texts=[apology])) == ("refused", "spoken apology")


def test_each_sample_keeps_its_own_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an application that is being built anew, which shows no deployments for a while, keeps what it had."""

    def serve(replicas: int) -> dict[str, Any]:
        return {"Workers": {"replicas": [{"state": "RUNNING"}] * replicas}} if replicas else {}

    answers = iter([serve(1), serve(3), serve(0)])
    reply = SimpleNamespace(json=lambda: {"applications": {"control": {"deployments": next(answers)}}})
    watcher = Watcher("http://127.0.0.1:1", "redis://127.0.0.1:1")
    monkeypatch.setattr(watcher, "_http", SimpleNamespace(get=lambda path: reply))
    seen = [watcher._replicas() for _ in range(3)]
    assert [replicas["Workers"]["RUNNING"] for replicas in seen] == [1, 3, 3]


def test_a_run_is_written_with_its_plot(tmp_path: Path) -> None:
    samples = [a_sample(at_s=float(n)) for n in range(3)]
    file = write(tmp_path, RAMP, [a_call()], samples, judge(RAMP, [a_call()], samples))
    assert file.stat().st_size > 1000 and file.with_suffix(".png").stat().st_size > 1000
