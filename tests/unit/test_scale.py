"""The scale benchmark's arithmetic: what it asks for, what it concludes. No platform is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from load_tests.scale.changes import Change, Changes, Seen
from load_tests.scale.report import write
from load_tests.scale.scenario import (
    CALLS_PER_PROCESS,
    CHANGES,
    CONTROL_LISTENER,
    CONTROL_PROXY,
    RAMP,
    SCENARIOS,
    Scenario,
    with_new_args,
)
from load_tests.scale.traffic import Placed, Traffic, _fate, callee
from load_tests.scale.verdicts import Outcome, judge
from load_tests.scale.watch import MINIMUM, Sample, Watcher
from serve_app.paths import serve_config
from serve_app.simulators.callee import CalleeBehaviour, Wait

LATE_MEDIA = "every call has media in time, 3 s"
LATE_AUDIO = "on every open line the agent is heard in time, 1 s"
REPLACED = "every replica of every deployment is replaced"
CUTS = "the control cuts calls, so that the others can fail"


def replicas(generation: str, **counts: int) -> dict[str, dict[str, str]]:
    """Running replicas of every deployment; their ids begin with the generation."""
    return {
        name: {f"{generation}-{name}-{n}": "RUNNING" for n in range(count)}
        for name, count in (MINIMUM | counts).items()
    }


AT_MINIMUM = replicas("old")


def a_call(**over: Any) -> Placed:
    told: dict[str, Any] = {
        "direction": "inbound",
        "number": "1",
        "asked_s": 0.5,
        "media_s": 1.1,
        "ended_s": 51.0,
        "first_audio_s": 0.3,
        "fate": "completed",
    } | over
    return Placed(**told)


def both(**over: Any) -> list[Placed]:
    return [a_call(**over), a_call(direction="outbound", **over)]


def a_sample(**over: Any) -> Sample:
    nothing = dict.fromkeys(("wanted", "open", "talking", "completed", "refused", "not_placed", "cut"), 0)
    told: dict[str, Any] = {
        "at_s": 0.0,
        **nothing,
        "slots": 4,
        "slots_used": 0,
        "lag_p95_ms": 1.0,
        "ids": AT_MINIMUM,
    } | over
    return Sample(**told)


def made(scenario: Scenario, **over: Any) -> list[Seen]:
    """The scenario's changes, each through and under enough calls."""
    told: dict[str, Any] = {
        "began_s": 20.0,
        "before": {n: sorted(i) for n, i in AT_MINIMUM.items()},
        "done_s": 40.0,
        "fewest_talking": 8,
    } | over
    return [Seen(change, **told) for change in scenario.changes]


def misses(
    scenario: Scenario,
    calls: list[Placed],
    samples: Sequence[Sample] = (a_sample(),),
    changes: list[Seen] | None = None,
) -> list[str]:
    outcome = Outcome(calls, samples, made(scenario) if changes is None else changes)
    return [verdict.aim for verdict in judge(scenario, outcome) if not verdict.passed]


def test_the_profile_is_linear_between_its_points() -> None:
    scenario = replace(RAMP, profile=((0, 0), (10, 5), (20, 5), (30, 0)))
    assert [scenario.wanted(at) for at in (0, 2, 10, 15, 25, 30, 99)] == [0, 1, 5, 5, 2, 0, 0]
    assert (scenario.full, scenario.duration_s) == (5, 30)


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=str)
def test_calls_outlive_the_limits_that_they_are_to_outlive(scenario: Scenario) -> None:
    assert scenario.call_s > max(scenario.draining_s, scenario.hard_stop_s)
    CalleeBehaviour.model_validate(callee(scenario.call_s))


def test_a_callee_stays_for_the_whole_call_however_brief_the_agent_is() -> None:
    behaviour = CalleeBehaviour.model_validate(callee(50))
    assert behaviour.max_duration_s == 50
    # Its own pauses alone are longer than the call, so it never runs out of questions, and it hangs up at no step.
    assert sum(step.wait_ms for step in behaviour.steps if isinstance(step, Wait)) > 50_000
    assert all("hang_up" not in step for step in callee(50)["steps"])


def test_calls_are_held_at_the_end_of_the_plateau() -> None:
    assert all(s.wanted(s.hold_at_s) == s.full for s in SCENARIOS.values())


def test_the_config_is_the_shipped_one_with_little_room() -> None:
    shipped = yaml.safe_load(serve_config().read_text(encoding="utf-8"))
    document = RAMP.document(shipped)
    assert document["controller_options"]["runtime_env"]["env_vars"]["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "20"
    (sessions,) = [d for d in document["applications"][0]["deployments"] if d["name"] == "CallSessions"]
    assert sessions["max_ongoing_requests"] == sessions["user_config"]["max_calls"] == CALLS_PER_PROCESS
    assert sessions["autoscaling_config"]["policy"] == {"policy_function": "deployments.autoscaling:session_policy"}
    assert "PARLEY_SERVER__MEDIA_PORT" not in document["controller_options"]["runtime_env"]["env_vars"]
    control = CONTROL_PROXY.document(shipped)["controller_options"]["runtime_env"]["env_vars"]
    assert control["PARLEY_SERVER__MEDIA_PORT"] == ""
    ingress = next(d for d in document["applications"][0]["deployments"] if d["name"] == "MediaIngress")
    assert ingress["autoscaling_config"]["target_ongoing_requests"] == RAMP.sockets_per_ingress
    assert ingress["graceful_shutdown_timeout_s"] > RAMP.call_s
    for deployment in CONTROL_LISTENER.document(shipped)["applications"][0]["deployments"]:
        if deployment["name"] in ("MediaIngress", "CallSessions"):
            assert deployment["graceful_shutdown_timeout_s"] < CONTROL_LISTENER.call_s
    assert all(a["args"] == {"config": "f"} for a in with_new_args(document, "f")["applications"])
    assert shipped == yaml.safe_load(serve_config().read_text(encoding="utf-8"))


def test_a_good_run_misses_nothing() -> None:
    assert misses(CHANGES, both()) == []


@pytest.mark.parametrize(
    ("bad", "aim"),
    [
        ({"fate": "cut", "detail": "1006"}, "no call cut"),
        ({"fate": "refused", "detail": "spoken apology"}, "no call refused or given up unplaced"),
        ({"fate": "not_placed", "detail": "no_capacity"}, "no call refused or given up unplaced"),
        ({"media_s": 33.7, "ended_s": 83.7}, LATE_MEDIA),
        ({"first_audio_s": 3.8}, LATE_AUDIO),
        ({"first_audio_s": None}, LATE_AUDIO),
        ({"fate": "open", "ended_s": None}, "every call has ended"),
    ],
    ids=str,
)
def test_one_bad_call_misses(bad: dict[str, Any], aim: str) -> None:
    assert misses(CHANGES, [*both(), a_call(**bad)]) == [aim]


def test_a_call_that_never_had_media_is_late() -> None:
    assert LATE_MEDIA in misses(CHANGES, [*both(), a_call(media_s=None, first_audio_s=None, fate="cut")])


def test_the_shortest_call_of_a_direction_counts_among_those_up_during_a_change() -> None:
    missed = ["outbound calls outlive Serve's limits, 20 s"]
    assert misses(CHANGES, [a_call(), a_call(direction="outbound", media_s=15.0, asked_s=14.0, ended_s=30.0)]) == missed
    assert misses(CHANGES, [a_call()]) == missed
    # It was over before the change began.
    assert misses(CHANGES, [*both(), a_call(ended_s=19.0)]) == []


def test_replicas_that_stay_or_drain_on_miss() -> None:
    draining = AT_MINIMUM | {"MediaIngress": {"a": "RUNNING", "b": "STOPPING"}}
    assert misses(CHANGES, both(), [a_sample(ids=draining)]) == ["all deployments back at their minimum"]


def test_an_update_that_changes_nothing_misses() -> None:
    update = Scenario("u", "", ((0, 0), (1, 8), (2, 8), (3, 0)), changes=(Change("update"),))
    changes = Changes(update.changes, from_s=5)
    assert changes.due(a_sample(at_s=4.0)) is None
    for at_s in (5.0, 6.0, 99.0):
        sample = a_sample(at_s=at_s, talking=8)
        changes.watch(sample)
        changes.due(sample)
    assert not changes.through
    assert misses(update, both(), changes=changes.seen) == [REPLACED]
    assert misses(update, both(), changes=[]) == ["update is made"]


def test_an_update_is_through_when_every_old_replica_is_gone_and_its_successor_runs() -> None:
    changes = Changes([Change("update")], from_s=0)
    changes.due(a_sample(at_s=1.0, talking=8))
    draining = replicas("new") | {"CallSessions": {"old-CallSessions-0": "STOPPING", "new-CallSessions-0": "RUNNING"}}
    changes.watch(a_sample(at_s=2.0, talking=7, ids=draining))
    assert changes.seen[0].stayed == {"CallSessions": ["old-CallSessions-0"]}
    starting = replicas("new") | {"Dialer": {"new-Dialer-0": "STARTING"}}
    through = []
    for at_s, talking, ids in ((3.0, 8, starting), (4.0, 8, replicas("new")), (5.0, 0, replicas("new"))):
        changes.watch(a_sample(at_s=at_s, talking=talking, ids=ids))
        through.append(changes.through)
    assert through == [False, True, True]
    assert (changes.seen[0].done_s, changes.seen[0].fewest_talking) == (4.0, 7)


def test_changes_come_one_after_the_other() -> None:
    changes = Changes([Change("ingress", 2), Change("ingress", 1)], from_s=0)
    assert changes.due(a_sample(at_s=0.0)) == Change("ingress", 2)
    changes.watch(a_sample(at_s=1.0))
    assert changes.due(a_sample(at_s=1.0)) is None
    grown = replicas("old", MediaIngress=2)
    changes.watch(a_sample(at_s=2.0, ids=grown))
    assert changes.due(a_sample(at_s=3.0, ids=grown)) is None
    assert changes.due(a_sample(at_s=2.0 + Changes.PAUSE_S, ids=grown)) == Change("ingress", 1)
    assert not changes.through


def test_a_change_under_few_calls_or_without_an_end_misses() -> None:
    few = [f"6 calls are up during {change.name}" for change in CHANGES.changes]
    assert misses(CHANGES, both(), changes=made(CHANGES, fewest_talking=2)) == few
    endless = ["ingress -> 2 is made", "ingress -> 1 is made", REPLACED]
    assert misses(CHANGES, both(), changes=made(CHANGES, done_s=None)) == endless


@pytest.mark.parametrize("control", [CONTROL_PROXY, CONTROL_LISTENER], ids=str)
def test_a_control_misses_unless_it_cuts_an_open_line(control: Scenario) -> None:
    assert misses(control, [a_call()]) == [CUTS]
    assert misses(control, [a_call(fate="cut", media_s=None)]) == [CUTS]
    assert misses(control, [a_call(fate="cut")]) == []
    refused = [a_call(fate="cut"), a_call(fate="refused")]
    assert misses(control, refused) == ["no call refused or given up unplaced"]


def test_a_ramp_must_show_growth_and_clean_refusals() -> None:
    grown = replicas("old", CallSessions=5, CodecPool=2, MediaIngress=2)
    waited = a_call(direction="outbound", asked_s=65.0, media_s=75.0, ended_s=125.0)
    apology = {"fate": "refused", "detail": "spoken apology", "first_audio_s": None, "media_s": None, "ended_s": None}
    refused = a_call(**apology, asked_s=65.0)
    samples = [a_sample(ids=grown), a_sample()]
    assert misses(RAMP, [*both(), waited, refused], samples) == []
    assert misses(RAMP, [*both(), waited, refused], [a_sample()]) == [
        "session replicas grow to hold the calls",
        "codec replicas grow with their queue",
        "ingress replicas grow with their sockets",
    ]
    assert "beyond capacity inbound calls hear an apology" in misses(RAMP, [*both(), waited], samples)
    assert misses(RAMP, [*both(), waited, replace(waited, asked_s=30.0), refused], samples) == [LATE_MEDIA]
    assert misses(RAMP, [*both(), waited, replace(waited, fate="not_placed"), refused], samples) == [
        "no call given up unplaced"
    ]
    early = replace(refused, asked_s=30.0)
    assert misses(RAMP, [*both(), waited, refused, early], samples) == ["no call refused below capacity"]


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


def test_a_socket_opened_when_its_frames_say_so_not_when_somebody_looked() -> None:
    leg = media(duration_ms=2000, first_agent_frame_ms=340, underruns=0)
    network = {"calls": [seen(direction="inbound", **{"from": "1", "to": "2"}, over=False, media=leg)]}
    sim = httpx.Client(
        base_url="http://sim", transport=httpx.MockTransport(lambda request: httpx.Response(200, json=network))
    )
    traffic = Traffic(sim, sim, 0.0)
    traffic.calls["1"] = Placed("inbound", "1", traffic.now_s() - 2.5)
    traffic.poll()
    call = traffic.calls["1"]
    assert call.setup_s == pytest.approx(0.5, abs=0.1)
    assert call.first_audio_s == 0.34
    traffic.poll()
    assert traffic.calls["1"].setup_s == call.setup_s


def test_an_api_that_does_not_answer_is_a_refusal() -> None:
    def api(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("", request=request)

    accepts = httpx.Client(base_url="http://sim", transport=httpx.MockTransport(lambda request: httpx.Response(200)))
    traffic = Traffic(httpx.Client(base_url="http://api", transport=httpx.MockTransport(api)), accepts, 0.0)
    traffic.ask("outbound", 50)
    assert [(call.fate, call.detail) for call in traffic.calls.values()] == [("refused", "ReadTimeout")]


def test_each_sample_keeps_its_own_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an application that is being built anew, which shows no deployments for a while, keeps what it had."""

    def serve(*ids: str) -> dict[str, Any]:
        return {"Workers": {"replicas": [{"replica_id": i, "state": "RUNNING"} for i in ids]}} if ids else {}

    answers = iter([serve("a"), serve("a", "b"), serve()])
    reply = SimpleNamespace(json=lambda: {"applications": {"control": {"deployments": next(answers)}}})
    watcher = Watcher("http://127.0.0.1:1", "redis://127.0.0.1:1")
    monkeypatch.setattr(watcher, "_http", SimpleNamespace(get=lambda path: reply))
    seen = [sorted(watcher._replicas()["Workers"]) for _ in range(3)]
    assert seen == [["a"], ["a", "b"], ["a", "b"]]


def test_a_run_is_written_with_its_plot(tmp_path: Path) -> None:
    outcome = Outcome(both(), [a_sample(at_s=float(n)) for n in range(3)], made(CHANGES))
    file = write(tmp_path, CHANGES, outcome, judge(CHANGES, outcome))
    assert '"old-Dialer-0"' in file.read_text()
    assert file.with_suffix(".png").stat().st_size > 1000
