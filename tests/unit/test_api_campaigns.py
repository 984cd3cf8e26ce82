"""Campaigns and kill switches over REST and on the command line."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from typer.testing import CliRunner

from serve_app.api.app import create_app
from serve_app.api.campaign_calls import MOST_AT_ONCE
from serve_app.cli.main import app as cli
from serve_app.dialing.campaign_report import Capacity, capacity_of, report_of
from serve_app.dialing.dispositions import Disposition
from serve_app.dialing.plans import shipped_plans
from serve_app.paths import configs_dir
from serve_app.settings import VonageSettings
from serve_app.store.attempts import Attempts
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.campaigns import Campaigns, CampaignStats
from serve_app.store.lead_claims import CloseLead
from serve_app.store.leads import Leads, NewLead
from tests.unit.api_support import Plane
from tests.unit.campaign_support import claim, end, number, send
from tests.unit.test_api_calls import check_problem

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

CAMPAIGNS = "/api/v1/campaigns"
SWITCHES = "/api/v1/kill-switches"
CONSENTS = "/api/v1/consents"
EXAMPLE = configs_dir() / "campaigns" / "spring-recall.yaml"
BODY: dict[str, Any] = {"name": "spring", "agent": "riverside-dental", "calling_rules": {"countries": ["US"]}}


async def create(plane: Plane, **changes: Any) -> dict[str, Any]:
    response = await plane.http.post(CAMPAIGNS, json=BODY | changes, headers=plane.auth)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


async def post(plane: Plane, campaign: dict[str, Any], step: str, body: Any = None) -> Any:
    return await plane.http.post(f"{CAMPAIGNS}/{campaign['id']}/{step}", json=body, headers=plane.auth)


async def row_of(plane: Plane, campaign: dict[str, Any]) -> CampaignRow:
    row = await Campaigns(plane.db, "default").get(campaign["id"])
    assert row is not None
    return row


async def test_a_campaign_is_written_down_read_listed_and_changed(plane: Plane) -> None:
    created = await create(plane, goal="an appointment", daily_calls=100)
    assert (created["status"], created["daily_calls"], created["retry_policy"]["version"]) == ("draft", 100, 1)
    assert created["calling_rules"]["countries"] == ["US"]
    read = await plane.http.get(f"{CAMPAIGNS}/{created['id']}", headers=plane.auth)
    assert read.json() == created
    check_problem(await plane.http.post(CAMPAIGNS, json=BODY, headers=plane.auth), 409, "name_taken")
    second = await create(plane, name="summer")
    page = (await plane.http.get(CAMPAIGNS, params={"limit": 1}, headers=plane.auth)).json()
    assert [item["id"] for item in page["items"]] == [second["id"]]
    page = (await plane.http.get(CAMPAIGNS, params={"cursor": page["next_cursor"]}, headers=plane.auth)).json()
    assert ([item["id"] for item in page["items"]], page["next_cursor"]) == ([created["id"]], None)
    path = f"{CAMPAIGNS}/{created['id']}"
    changes = {"daily_calls": None, "retry_policy": {"most_attempts": 3}}
    assert plane.woken == [], "a draft is nothing to call"
    changed = (await plane.http.patch(path, json=changes, headers=plane.auth)).json()
    assert plane.woken == [f"dialer: {plane.settings.tenant}"], "there may be room for more calls now"
    assert (changed["daily_calls"], changed["goal"]) == (None, "an appointment")
    assert (changed["retry_policy"]["most_attempts"], changed["retry_policy"]["version"]) == (3, 2)
    taken = await plane.http.patch(path, json={"name": "summer"}, headers=plane.auth)
    check_problem(taken, 409, "name_taken")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"calling_rules": {}}, "calling_rules.countries"),
        ({"calling_rules": {"countries": ["usa"]}}, "calling_rules.countries.0"),
        ({"calling_rules": {"countries": ["US"], "hours": {"mon": ["25:00-26:00"]}}}, "calling_rules.hours"),
        ({"retry_policy": {"rules": {"opt_out": {"after_minutes": [5], "most": 1}}}}, "retry_policy.rules"),
        ({"retry_policy": {"rules": {"busy": {"most": 1}}}}, "retry_policy.rules.busy"),
        ({"agent": "nobody"}, "agent"),
        ({"agent_version": 7}, "agent_version"),
        ({"name": " "}, "name"),
        ({"weight": 0}, "weight"),
        ({"goal": "a\0b"}, "goal"),
        ({"calling_rules": {"countries": ["US"], "consent_scope": "a\0b"}}, "calling_rules.consent_scope"),
        ({"tenant_id": "other"}, "tenant_id"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_field_and_the_remedy(
    plane: Plane, changes: dict[str, Any], field: str
) -> None:
    response = await plane.http.post(CAMPAIGNS, json=BODY | changes, headers=plane.auth)
    assert response.status_code == 422
    error = response.json()["errors"][0]
    assert error["field"] == field and error["remedy"]
    assert (await plane.http.get(CAMPAIGNS, headers=plane.auth)).json()["items"] == []


async def test_an_id_that_is_none_is_refused(plane: Plane) -> None:
    for method, path in (("GET", "spring"), ("GET", "a%00b/stats"), ("POST", "1/start")):
        response = await plane.http.request(method, f"{CAMPAIGNS}/{path}", headers=plane.auth)
        assert check_problem(response, 422, "invalid_request")["errors"][0]["field"] == "campaign_id"


async def test_a_change_may_clear_only_what_may_be_empty(plane: Plane) -> None:
    created = await create(plane)
    path = f"{CAMPAIGNS}/{created['id']}"
    for field in ("name", "weight", "agent", "calling_rules"):
        refused = check_problem(
            await plane.http.patch(path, json={field: None}, headers=plane.auth), 422, "invalid_request"
        )
        assert refused["errors"][0]["field"] == field
    assert (await plane.http.get(path, headers=plane.auth)).json() == created


async def test_starting_pausing_resuming_and_stopping_each_change_it_once(plane: Plane) -> None:
    created = await create(plane)
    for step, status in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("stop", "cancelled")):
        first, second = [(await post(plane, created, step)).json() for _ in range(2)]
        assert (first["changed"], second["changed"]) == (True, False)
        assert first["campaign"]["status"] == second["campaign"]["status"] == status
        assert {k: first["campaign"][k] for k in ("started_at", "completed_at")} == {
            k: second["campaign"][k] for k in ("started_at", "completed_at")
        }
    assert plane.woken == 4 * [f"dialer: {plane.settings.tenant}"], "each change, and nothing else, wakes the dialer"
    for step in ("start", "pause", "resume"):
        refused = check_problem(await post(plane, created, step), 409, "campaign_state")
        assert refused["status_of_campaign"] == "cancelled" and refused["remedy"]
    path = f"{CAMPAIGNS}/{created['id']}"
    check_problem(await plane.http.patch(path, json={"goal": "x"}, headers=plane.auth), 409, "campaign_state")


async def test_many_starts_at_once_are_one(plane: Plane) -> None:
    created = await create(plane)
    answers = await asyncio.gather(*(post(plane, created, "start") for _ in range(8)))
    assert sorted(answer.json()["changed"] for answer in answers) == [False] * 7 + [True]


async def test_a_campaign_is_scheduled_moved_and_made_a_draft_again(plane: Plane) -> None:
    created = await create(plane)
    for at in ("2027-01-11T09:00:00-05:00", "2027-01-12T14:00:00Z"):
        moved = (await post(plane, created, "schedule", {"at": at})).json()
        assert moved["changed"] and moved["campaign"]["status"] == "scheduled"
        assert datetime.fromisoformat(moved["campaign"]["scheduled_at"]) == datetime.fromisoformat(at)
    naive = await post(plane, created, "schedule", {"at": "2027-01-11T09:00:00"})
    assert check_problem(naive, 422, "invalid_request")["errors"][0]["field"] == "at"
    back = (await post(plane, created, "unschedule")).json()
    assert (back["campaign"]["status"], back["campaign"]["scheduled_at"]) == ("draft", None)
    check_problem(await post(plane, created, "resume"), 409, "campaign_state")


async def test_a_campaign_whose_agent_is_gone_does_not_start(plane: Plane) -> None:
    row = await Campaigns(plane.db, "default").create("old", "retired", calling_rules={"countries": ["US"]})
    refused = await plane.http.post(f"{CAMPAIGNS}/{row.id}/start", headers=plane.auth)
    assert check_problem(refused, 422, "no_agent")["errors"][0]["field"] == "agent"


async def test_stopping_may_end_the_calls_that_go_on(plane: Plane) -> None:
    created = await create(plane)
    await Leads(plane.db, "default").add(created["id"], [NewLead(number(i)) for i in range(3)])
    await post(plane, created, "start")
    row = await row_of(plane, created)
    waiting, ringing, over = (await claim(plane.db, row)).leads
    assert await send(plane.db, ringing.attempt_id, "default") and await send(plane.db, over.attempt_id, "default")
    await Attempts(plane.db, "default").placed(ringing.attempt_id, "carrier-1", None)
    await end(plane.db, over.call_id, "busy", tenant="default")
    plain = (await post(plane, created, "stop")).json()
    assert (plain["changed"], plain["ended_calls"], plain["live_calls"]) == (True, 0, 0)
    assert plane.vonage.hung_up == []
    again = (await post(plane, created, "stop", {"end_live_calls": True})).json()
    assert (again["changed"], again["ended_calls"], again["live_calls"]) == (False, 2, 0)
    assert plane.vonage.hung_up == ["carrier-1"]
    live, _ = await Campaigns(plane.db, "default").attempts(row.id, limit=MOST_AT_ONCE, live=True)
    assert live == []
    stats = await Campaigns(plane.db, "default").stats(row.id)
    assert stats.leads == {"deferred": 3} and stats.results["not_placed"] == 1
    jobs = (await plane.http.get(f"{CAMPAIGNS}/{row.id}/jobs", headers=plane.auth)).json()["items"]
    assert {job["call_id"] for job in jobs} == {waiting.call_id, ringing.call_id, over.call_id}


async def test_the_report_and_the_jobs_of_a_campaign(plane: Plane) -> None:
    created = await create(plane)
    await Leads(plane.db, "default").add(created["id"], [NewLead(number(i)) for i in range(4)])
    await post(plane, created, "start")
    row = await row_of(plane, created)
    reached, busy = (await claim(plane.db, row, limit=2)).leads
    for held in (reached, busy):
        assert await send(plane.db, held.attempt_id, "default")
    await Attempts(plane.db, "default").report(reached.call_id, "success")
    await end(plane.db, reached.call_id, "completed", tenant="default", talked_s=61.5)
    await end(plane.db, busy.call_id, "busy", tenant="default")
    report = (await plane.http.get(f"{CAMPAIGNS}/{row.id}/stats", headers=plane.auth)).json()
    assert report["leads"] == {"ready": 2, "done": 1, "deferred": 1}
    assert report["results"] == {"success": 1, "busy": 1}
    assert (report["attempts"], report["contacts"], report["successes"], report["talk_s"]) == (2, 1, 1, 61.5)
    assert (report["penetration"], report["contact_rate"], report["attempts_per_contact"]) == (0.5, 0.5, 2.0)
    # Three leads are open; five calls at once is what the smallest plan allows: 5 / (20 s + 0.5 * 61.5 s) a second.
    assert report["pass_hours"] == round(3 / (5 / 50.75) / 3600, 2) == 0.01
    page = (await plane.http.get(f"{CAMPAIGNS}/{row.id}/jobs", params={"limit": 1}, headers=plane.auth)).json()
    rest = {"limit": 1, "cursor": page["next_cursor"]}
    following = (await plane.http.get(f"{CAMPAIGNS}/{row.id}/jobs", params=rest, headers=plane.auth)).json()
    assert following["next_cursor"] is None
    jobs = {job["number"]: job for job in (*page["items"], *following["items"])}
    assert jobs[reached.lead.number]["result"] == "success" and jobs[busy.lead.number]["result"] == "busy"
    assert {job["attempt"] for job in jobs.values()} == {1}


def test_a_report_of_nothing_divides_by_nothing() -> None:
    report = report_of(CampaignStats({}, 0, {}, 0, 0.0))
    assert report.penetration is report.contact_rate is report.attempts_per_contact is report.pass_hours is None
    every = report_of(CampaignStats({"done": 1, "deleted": 9}, 1, dict.fromkeys(Disposition, 1), 0, 0.0))
    assert every.total_leads == 1
    assert every.attempts == len(Disposition) - 1, "what was not placed is no call"


def test_a_report_says_how_long_a_pass_takes() -> None:
    new = CampaignStats({"ready": 60_000, "deferred": 40_000, "done": 9}, 0, {}, 0, 0.0)
    assert report_of(new, Capacity(3, 1000)).pass_hours == 9.26
    assert report_of(new, Capacity(3, 47)).pass_hours == pytest.approx(27.78), "the usual answer rate and talk"
    assert report_of(new, Capacity(3, 0)).pass_hours is None
    # Half are answered, for three minutes each: ten calls at once are 10 / (20 s + 90 s) a second.
    known = CampaignStats({"ready": 3600}, 10, {"success": 3, "machine": 2, "busy": 5, "not_placed": 7}, 0, 900.0)
    assert report_of(known, Capacity(3, 10)).pass_hours == 11.0


def test_what_a_campaign_may_use_is_the_least_of_all_limits() -> None:
    campaign = SimpleNamespace(max_concurrent=None)
    tenant = SimpleNamespace(plan="enterprise", max_concurrent=None)
    limits: list[tuple[dict[str, Any], int]] = [({}, 100), ({"plan": "professional"}, 25), ({"plan": "gone"}, 0)]
    limits += [({"channels": 50}, 50), ({"max_concurrent": 40}, 40), ({"tenant_most": 30}, 30)]
    for limit, expected in limits:
        tenant.plan, tenant.max_concurrent = limit.get("plan", "enterprise"), limit.get("tenant_most")
        campaign.max_concurrent = limit.get("max_concurrent")
        network = VonageSettings(calls_per_second=7, channels=limit.get("channels"))
        found = capacity_of(campaign, tenant, shipped_plans(), network, 100)  # type: ignore[arg-type]
        assert found == Capacity(7, expected), limit
    unknown = capacity_of(campaign, None, shipped_plans(), VonageSettings(), 100)  # type: ignore[arg-type]
    assert unknown.calls_at_once == shipped_plans().of(None).concurrent_calls  # type: ignore[union-attr]


async def test_kill_switches_are_set_listed_and_lifted(plane: Plane) -> None:
    created = await create(plane)
    keys: list[dict[str, Any]] = [
        {"scope": "number", "number": "+1 202-555-0123"},
        {"scope": "campaign", "campaign_id": created["id"]},
        {"scope": "tenant"},
    ]
    for key in keys:
        response = await plane.http.post(SWITCHES, json=key | {"reason": "complaints"}, headers=plane.auth)
        assert response.status_code == 201
    listed = (await plane.http.get(SWITCHES, headers=plane.auth)).json()["items"]
    assert [row["key"] for row in listed] == ["+12025550123", created["id"], "default"]
    assert all(row["on_by"].startswith("key ") and row["off_at"] is None for row in listed)
    for key in keys:
        assert (await plane.http.post(f"{SWITCHES}/lift", json=key, headers=plane.auth)).status_code == 200
        check_problem(await plane.http.post(f"{SWITCHES}/lift", json=key, headers=plane.auth), 404, "not_on")
    assert (await plane.http.get(SWITCHES, headers=plane.auth)).json()["items"] == []
    history = (await plane.http.get(SWITCHES, params={"lifted": True}, headers=plane.auth)).json()["items"]
    assert len(history) == 3 and all(row["off_at"] for row in history)
    for wrong in (
        {"scope": "number"},
        {"scope": "tenant", "number": "+12025550123"},
        {"scope": "campaign", "number": "+12025550123"},
        {"scope": "global"},
    ):
        refused = await plane.http.post(SWITCHES, json=wrong | {"reason": "x"}, headers=plane.auth)
        check_problem(refused, 422, "invalid_request")


async def test_consents_are_recorded_listed_and_taken_back(plane: Plane) -> None:
    body = {"number": "+1 202-555-0123", "kind": "written", "source": "form", "given_at": "2026-01-05T12:00:00Z"}
    response = await plane.http.post(CONSENTS, json=body | {"document": {"text": "I agree"}}, headers=plane.auth)
    assert response.status_code == 201
    assert (response.json()["scope"], response.json()["document"]) == ("*", {"text": "I agree"})
    listed = await plane.http.get(CONSENTS, params={"number": "+12025550123"}, headers=plane.auth)
    assert listed.json()["items"] == [response.json()]
    other = await plane.another_key("other")
    assert (await plane.http.get(CONSENTS, params={"number": "+12025550123"}, headers=other)).json()["items"] == []
    taken = {"number": "+12025550123"}
    for expected in (1, 0):
        answer = await plane.http.post(f"{CONSENTS}/revoke", json=taken, headers=plane.auth)
        assert answer.json() == {"revoked": expected}
    for field, value in (
        ("given_at", "2999-01-01T00:00:00Z"),
        ("expires_at", "2026-01-05T12:00:00Z"),
        ("source", " "),
        ("kind", "verbal"),
        ("given_at", "2026-01-05T12:00:00"),
    ):
        refused = await plane.http.post(CONSENTS, json=body | {field: value}, headers=plane.auth)
        assert check_problem(refused, 422, "invalid_request")["errors"][0]["field"] == field


async def test_closed_leads_are_opened_again_one_or_all_of_a_reason(plane: Plane) -> None:
    created = await create(plane)
    await Leads(plane.db, "default").add(created["id"], [NewLead(number(i)) for i in range(3)])
    await post(plane, created, "start")
    row = await row_of(plane, created)
    await claim(plane.db, row, lambda lead, facts, known: CloseLead("barred", "not_scrubbed"))
    leads, _ = await Leads(plane.db, "default").list(row.id, limit=9, state="barred")
    assert (await post(plane, created, "reopen", {"lead_id": leads[0].id})).json() == {"reopened": 1}
    assert (await post(plane, created, "reopen", {"reason": "not_scrubbed"})).json() == {"reopened": 2}
    assert (await post(plane, created, "reopen", {"reason": "not_scrubbed"})).json() == {"reopened": 0}
    for body in ({}, {"lead_id": leads[0].id, "reason": "x"}):
        check_problem(await post(plane, created, "reopen", body), 422, "invalid_request")
    await post(plane, created, "stop")
    check_problem(await post(plane, created, "reopen", {"reason": "not_scrubbed"}), 409, "campaign_state")


# --- the command line


@pytest.fixture(name="parley")
def fixture_parley(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PARLEY_DATA_DIR", str(tmp_path / "data"))

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "200"})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.output

    assert run("db", "upgrade")[0] == 0
    return run


def test_a_campaign_on_the_command_line(parley: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_URL", "http://127.0.0.1:9")
    code, output = parley("campaign", "create", str(EXAMPLE))
    assert (code, "parley agent apply" in output) == (1, True)
    assert parley("agent", "apply", str(configs_dir() / "agents" / "riverside-dental.yaml"))[0] == 0
    assert "is a draft" in parley("campaign", "create", str(EXAMPLE))[1]
    assert parley("campaign", "create", str(EXAMPLE))[0] == 1
    for step, told in (
        ("start", "is running"),
        ("start", "is running already"),
        ("pause", "is paused"),
        ("resume", "is running"),
        ("stop", "is cancelled"),
    ):
        code, output = parley("campaign", step, "spring-recall")
        assert (code, told in output) == (0, True), output
    code, output = parley("campaign", "start", "spring-recall")
    assert (code, "cancelled cannot become running" in output) == (1, True)
    code, output = parley("campaign", "pause", "nothing")
    assert (code, "parley campaign list" in output) == (1, True)
    shown = parley("campaign", "show", "spring-recall")[1]
    again = tmp_path / "again.yaml"
    again.write_text(shown[shown.index("name:") :].replace("spring-recall", "autumn"))
    assert parley("campaign", "create", str(again))[0] == 0, shown
    listed = parley("campaign", "list")[1]
    assert "autumn" in listed and "cancelled" in listed
    assert "autumn" not in parley("campaign", "list", "--status", "cancelled")[1]
    assert parley("campaign", "list", "--status", "on")[0] == 1
    assert parley("campaign", "schedule", "autumn", "--at", "2027-01-11T09:00:00")[0] == 1
    assert "14:00 UTC" in parley("campaign", "schedule", "autumn", "--at", "2027-01-11T09:00:00-05:00")[1]
    assert "is draft" in parley("campaign", "schedule", "autumn", "--at", "never")[1]
    told = parley("campaign", "stats", "autumn")[1]
    assert "total leads" in told and "pass hours" not in told and "how long a pass takes is not known" in told
    monkeypatch.setattr("serve_app.cli.campaign.probe", lambda url, timeout_s: {"capacity": {"slots": 10}})
    assert "pass hours" in parley("campaign", "stats", "autumn")[1]
    assert parley("campaign", "jobs", "autumn")[0] == 0
    assert "0 leads" in parley("campaign", "reopen", "autumn", "--reason", "not_scrubbed")[1]
    assert parley("campaign", "reopen", "autumn")[0] == 1


async def test_the_command_line_asks_the_platform_that_runs(
    plane: Plane, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = await create(plane)
    await Leads(plane.db, "default").add(created["id"], [NewLead(number(i)) for i in range(2)])
    await post(plane, created, "start")
    ringing, _waiting = (await claim(plane.db, await row_of(plane, created))).leads
    assert await send(plane.db, ringing.attempt_id, "default")
    await Attempts(plane.db, "default").placed(ringing.attempt_id, "carrier-1", None)
    config = uvicorn.Config(create_app(plane.deps), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  (uvicorn has no event for it)
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    monkeypatch.setenv("PARLEY_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("PARLEY_DATABASE__URL", sqlite_url)

    async def parley(*arguments: str) -> tuple[int, str]:
        result = await asyncio.to_thread(CliRunner().invoke, cli, list(arguments), env={"COLUMNS": "200"})
        return result.exit_code, result.output

    try:
        code, output = await parley("campaign", "stats", "spring")
        assert code == 0 and "pass hours" in output and "live calls" in output, output
        code, output = await parley("campaign", "stop", "spring", "--end-live-calls")
        assert code == 0 and "campaign spring is cancelled" in output, output
        assert "2 live calls were told to end" in output and plane.vonage.hung_up == ["carrier-1"]
        code, output = await parley("campaign", "stop", "spring", "--end-live-calls")
        assert code == 0 and "cancelled already" in output and "0 live calls" in output, output
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("[1]", "expected the fields of one campaign"),
        ("a: [", "not valid YAML"),
        ("name: x\nagent: a\ncalling_rules: {}\n", "calling_rules.countries"),
        ("name: x\nagent: a\ncalling_rules: {countries: [US]}\ncolour: red\n", "colour"),
    ],
)
def test_a_bad_campaign_file_is_refused_with_a_reason(parley: Any, tmp_path: Path, document: str, told: str) -> None:
    file = tmp_path / "campaign.yaml"
    file.write_text(document)
    code, output = parley("campaign", "create", str(file))
    assert (code, told in output, str(EXAMPLE) in output.replace("\n", "") or told == "not valid YAML") == (
        1,
        True,
        True,
    )


def test_kill_switches_on_the_command_line(parley: Any) -> None:
    assert parley("kill-switch", "on", "--reason", "x")[0] == 1
    assert parley("kill-switch", "on", "--reason", " ", "--tenant")[0] == 1
    assert parley("kill-switch", "on", "--tenant", "--everything", "--reason", "x")[0] == 1
    for which in (["--everything"], ["--tenant"], ["--number", "+1 202 555 0123"]):
        assert parley("kill-switch", "on", *which, "--reason", "[storm]")[0] == 0
    listed = parley("kill-switch", "list")[1]
    assert listed.count("[storm]") == 3 and "global" in listed and "+12025550123" in listed
    assert parley("kill-switch", "off", "--everything")[0] == 0
    assert parley("kill-switch", "off", "--everything")[0] == 1
    assert "global" not in parley("kill-switch", "list")[1]
    assert "global" in parley("kill-switch", "list", "--lifted")[1]
    code, output = parley("kill-switch", "on", "--campaign", "nothing", "--reason", "x")
    assert (code, "parley campaign list" in output) == (1, True)
