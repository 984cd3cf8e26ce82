"""Leads and imports over REST and on the command line."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.cli.main import app as cli
from serve_app.dialing.imports.config import import_config
from serve_app.jobs.import_file import ImportFile
from serve_app.settings import load_settings
from serve_app.store.campaign_upkeep import complete_finished
from serve_app.store.campaigns import Campaigns
from serve_app.store.claim_facts import number_facts
from serve_app.store.db import Database
from serve_app.store.imports import IMPORT_FILE
from serve_app.store.repositories import Jobs, Leads
from tests.unit.api_support import Plane
from tests.unit.test_api_calls import check_problem
from tests.unit.test_import_runs import add_campaign, rows_with_faults

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

HEADER = "phone,first name,company,priority,consent,consent date\n"
FILE = HEADER + "(202) 555-0100,Ada,ACME,7,,\nn/a,Bob,,,,\n,,,,,\n2025550100,Ada again,,,,\n"
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(name="campaign")
async def fixture_campaign(plane: Plane) -> str:
    return await add_campaign(plane.db, tenant=plane.settings.tenant)


async def upload(plane: Plane, path: str, content: bytes | str, **params: str) -> Any:
    return await plane.http.post(f"/api/v1/{path}", content=content, params=params, headers=plane.auth)


async def work(plane: Plane) -> None:
    """What the workers do."""
    jobs, handler = Jobs(plane.db), ImportFile(plane.db, plane.deps.objects, processes=1)
    while leased := await jobs.lease("w", kinds=[IMPORT_FILE], limit=1, lease_s=60):
        await handler(leased[0])
        await jobs.done(leased[0].id, "w")


async def test_a_file_is_uploaded_and_its_import_followed(plane: Plane, campaign: str) -> None:
    sent = await upload(plane, f"campaigns/{campaign}/imports", FILE, region="us", filename="spring.csv")
    assert sent.status_code == 201, sent.text
    view = sent.json()
    assert (view["status"], view["progress"], view["filename"]) == ("queued", 0, "spring.csv")
    assert view["columns"]["company"] == "custom" and view["columns"]["phone"] == "number"
    assert plane.woken[-1] == "workers"
    again = await upload(plane, f"campaigns/{campaign}/imports", FILE, region="us", filename="other name.csv")
    assert (again.status_code, again.json()) == (200, view), "the same file is imported once"

    await work(plane)
    path = f"/api/v1/imports/{view['id']}"
    done = (await plane.http.get(path, headers=plane.auth)).json()
    assert (done["status"], done["progress"]) == ("completed", 1)
    assert done["counts"] == {
        "rows": 4,
        "accepted": 1,
        "blank": 1,
        "refused": {"number_not_a_number": 1, "duplicate_in_file": 1},
        "notes": {"without_consent": 1},
    }
    page = (await plane.http.get(f"{path}/errors", params={"limit": 1}, headers=plane.auth)).json()
    assert page["next_row"] == 3
    (error,) = page["items"]
    assert (error["row"], error["column"], error["code"], error["value"]) == (3, "phone", "number_not_a_number", "n/a")
    assert error["explanation"]
    last = (await plane.http.get(f"{path}/errors", params={"after": 3}, headers=plane.auth)).json()
    assert [item["row"] for item in last["items"]] == [5] and last["next_row"] is None
    report = await plane.http.get(f"{path}/errors.csv", headers=plane.auth)
    assert report.headers["content-type"] == "text/csv; charset=utf-8"
    assert [row["row"] for row in csv.DictReader(io.StringIO(report.content.decode("utf-8-sig")))] == ["3", "5"]
    listed = (await plane.http.get("/api/v1/imports", params={"campaign_id": campaign}, headers=plane.auth)).json()
    assert listed == {"items": [done], "next_cursor": None}
    assert (await plane.http.delete(path, headers=plane.auth)).status_code == 204
    check_problem(await plane.http.get(path, headers=plane.auth), 404, "not_found")


async def test_a_preview_keeps_nothing(plane: Plane) -> None:
    before = plane.deps.objects
    view = (await upload(plane, "imports/preview", FILE, region="US")).json()
    assert (view["encoding"], view["delimiter"], view["has_header"]) == ("utf-8", ",", True)
    assert [row["row"] for row in view["rows"]] == [2, 3, 5]
    assert view["rows"][0]["lead"] == {
        "number": "+12025550100",
        "first_name": "Ada",
        "custom_fields": {"company": "ACME"},
        "priority": 7,
        "high_value": False,
    }
    assert (view["rows"][1]["code"], view["rows"][1]["column"]) == ("number_not_a_number", "phone")
    assert (await plane.http.get("/api/v1/imports", headers=plane.auth)).json()["items"] == []
    assert await before.list("imports") == []


async def test_a_file_that_is_refused_names_the_field_and_the_remedy(plane: Plane, campaign: str) -> None:
    path = f"campaigns/{campaign}/imports"
    cases: list[tuple[str | bytes, dict[str, str], str, str]] = [
        ("", {}, "file_empty", "file"),
        ("a,b\n1,2\n", {}, "number_column_missing", "mapping"),
        (FILE, {"mapping": "{"}, "invalid_request", "mapping"),
        (FILE, {"mapping": json.dumps({"Company": "tag"})}, "mapping_column_unknown", "mapping.Company"),
        (FILE, {"region": "ZZ"}, "region_unknown", "region"),
        (FILE, {"scrubbed_at": "2099-01-31T00:00:00Z"}, "invalid_request", "scrubbed_at"),
        (FILE.encode("utf-16"), {"encoding": "ascii"}, "encoding_wrong", "encoding"),
    ]
    for content, params, code, field in cases:
        problem = check_problem(await upload(plane, path, content, **params), 422, code)
        assert [error["field"] for error in problem["errors"]] == [field], code
        assert problem["remedy"], code
    check_problem(await upload(plane, f"campaigns/{UNKNOWN}/imports", FILE), 404, "not_found")


async def test_a_body_beyond_the_limit_is_not_received(
    plane: Plane, campaign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = import_config()
    small = config.model_copy(update={"limits": config.limits.model_copy(update={"file_bytes": 1000})})
    monkeypatch.setattr("serve_app.api.uploads.import_config", lambda: small)
    received = 0

    async def endless() -> Any:
        nonlocal received
        while True:
            received += 100
            yield b"x" * 100

    path = f"/api/v1/campaigns/{campaign}/imports"
    check_problem(await plane.http.post(path, content=endless(), headers=plane.auth), 413, "file_too_large")
    assert received < 5000, "it is not read to its end, which there is none"
    check_problem(await plane.http.post(path, content=b"x" * 1001, headers=plane.auth), 413, "file_too_large")


async def test_a_do_not_call_list_is_imported(plane: Plane) -> None:
    view = (await upload(plane, "do-not-call/imports", "phone,name\n+12025550100,Ada\n", filename="dnc.csv")).json()
    assert (view["kind"], view["campaign_id"], view["columns"]["name"]) == ("do_not_call", None, "ignore")
    await work(plane)
    listed = (await plane.http.get("/api/v1/do-not-call", headers=plane.auth)).json()["items"]
    assert [(entry["number"], entry["source"]) for entry in listed] == [("+12025550100", "import")]
    assert "dnc.csv" in listed[0]["text"]


async def test_an_import_is_cancelled(plane: Plane, campaign: str) -> None:
    view = (await upload(plane, f"campaigns/{campaign}/imports", FILE, region="US")).json()
    path = f"/api/v1/imports/{view['id']}"
    check_problem(await plane.http.delete(path, headers=plane.auth), 409, "import_not_over")
    assert (await plane.http.post(f"{path}/cancel", headers=plane.auth)).json()["status"] == "cancelled"
    await work(plane)
    assert (await plane.http.get(path, headers=plane.auth)).json()["counts"]["rows"] == 0


async def test_a_lead_is_added_read_listed_and_deleted(plane: Plane, campaign: str) -> None:
    path = f"/api/v1/campaigns/{campaign}/leads"
    body = {
        "number": "+1 202 555 0100",
        "first_name": "Ada",
        "time_zones": ["America/New_York"],
        "tags": ["warm"],
        "custom_fields": {"age": 36},
        "consent": {"kind": "written", "given_at": "2026-01-31T00:00:00Z", "source": "form"},
    }
    added = await plane.http.post(path, json=body, headers=plane.auth)
    assert added.status_code == 201, added.text
    lead = added.json()
    assert (lead["number"], lead["state"], lead["custom_fields"]) == ("+12025550100", "ready", {"age": 36})
    assert lead["consent_at"] == "2026-01-31T00:00:00Z"
    again = check_problem(await plane.http.post(path, json=body, headers=plane.auth), 409, "lead_exists")
    assert again["lead_id"] == lead["id"]
    assert (await plane.http.get(f"/api/v1/leads/{lead['id']}", headers=plane.auth)).json() == lead
    for params, found in (
        ({}, 1),
        ({"state": "ready"}, 1),
        ({"state": "done"}, 0),
        ({"number": "+12025550100"}, 1),
        ({"number": "+12025550101"}, 0),
        ({"result": "busy"}, 0),
        ({"reason": "not_scrubbed"}, 0),
        ({"tag": "warm"}, 1),
        ({"tag": "war"}, 0),
    ):
        page = (await plane.http.get(path, params=params, headers=plane.auth)).json()
        assert len(page["items"]) == found, params
    for params, field in (({"result": "bussy"}, "result"), ({"state": "open"}, "state"), ({"tag": "\0"}, "tag")):
        refused = await plane.http.get(path, params=params, headers=plane.auth)
        assert check_problem(refused, 422, "invalid_request")["errors"][0]["field"] == field
    assert (await plane.http.delete(f"/api/v1/leads/{lead['id']}", headers=plane.auth)).status_code == 204
    check_problem(await plane.http.delete(f"/api/v1/leads/{lead['id']}", headers=plane.auth), 404, "not_found")
    assert (await plane.http.get(path, headers=plane.auth)).json()["items"] == []
    assert (await plane.http.post(path, json=body, headers=plane.auth)).status_code == 201, "its number is free again"


async def test_it_is_recorded_that_leads_were_scrubbed(plane: Plane, campaign: str) -> None:
    path = f"/api/v1/campaigns/{campaign}/leads"
    earlier = {"number": "+12025550100", "scrubbed_at": "2026-01-31T00:00:00Z"}
    added = (await plane.http.post(path, json=earlier, headers=plane.auth)).json()
    assert added["scrubbed_at"] == earlier["scrubbed_at"]
    told = {"at": datetime.now(UTC).isoformat()}
    answer = await plane.http.post(f"{path}/scrubbed", json=told, headers=plane.auth)
    assert answer.json() == {"leads": 1, "reopened": 0}
    found = (await plane.http.get(f"/api/v1/leads/{added['id']}", headers=plane.auth)).json()["scrubbed_at"]
    assert datetime.fromisoformat(found) == datetime.fromisoformat(told["at"])
    for wrong in ("2099-01-31T00:00:00Z", "2026-01-31"):
        refused = await plane.http.post(f"{path}/scrubbed", json={"at": wrong}, headers=plane.auth)
        assert check_problem(refused, 422, "invalid_request")["errors"][0]["field"] == "at"
    at = {"scrubbed_at": "2026-01-31T00:00:00Z", "region": "US"}
    await upload(plane, f"campaigns/{campaign}/imports", "phone\n2025550101\n", **at)
    await work(plane)
    page = await plane.http.get(path, params={"number": "+12025550101"}, headers=plane.auth)
    assert page.json()["items"][0]["scrubbed_at"] == at["scrubbed_at"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"number": "2025550100"}, "number"),
        ({"priority": 11}, "priority"),
        ({"time_zones": ["EST"]}, "time_zones.0"),
        ({"region": "California"}, "region"),
        ({"custom_fields": {"x": "y" * 5000}}, "custom_fields"),
        ({"state": "done"}, "state"),
        ({"consent": {"kind": "written", "given_at": "2026-01-31", "source": "form"}}, "consent.given_at"),
        ({"consent": {"kind": "written", "given_at": "2099-01-31T00:00:00Z", "source": "x"}}, "consent.given_at"),
        ({"consent": {"kind": "written", "given_at": "2026-01-31T00:00:00Z", "source": " "}}, "consent.source"),
        ({"scrubbed_at": "2099-01-31T00:00:00Z"}, "scrubbed_at"),
    ],
)
async def test_a_lead_that_is_wrong(plane: Plane, campaign: str, change: dict[str, Any], field: str) -> None:
    body = {"number": "+12025550100"} | change
    response = await plane.http.post(f"/api/v1/campaigns/{campaign}/leads", json=body, headers=plane.auth)
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field
    bulk = await plane.http.post(
        f"/api/v1/campaigns/{campaign}/leads/bulk",
        json={"leads": [{"number": "+12025550101"}, body]},
        headers=plane.auth,
    )
    view = bulk.json()
    assert view["accepted"] == 1, "what is wrong with one keeps none of the others"
    assert [(refusal["index"], refusal["field"]) for refusal in view["refused"]] == [(1, field)]
    assert view["refused"][0]["remedy"]


async def test_bulk_tells_of_every_lead(plane: Plane, campaign: str) -> None:
    path = f"/api/v1/campaigns/{campaign}/leads/bulk"
    numbers = ["+12025550100", "+12025550101", "+1 202 555 0100", "nobody"]
    body = {"leads": [{"number": number} for number in numbers]}
    view = (await plane.http.post(path, json=body, headers=plane.auth)).json()
    assert view["accepted"] == 2
    assert [(refusal["index"], refusal["code"]) for refusal in view["refused"]] == [
        (2, "duplicate_in_request"),
        (3, "phone_number"),
    ]
    assert all(refusal["remedy"] for refusal in view["refused"])
    view = (await plane.http.post(path, json=body, headers=plane.auth)).json()
    assert view["accepted"] == 0
    assert [refusal["code"] for refusal in view["refused"]] == [
        "lead_exists",
        "lead_exists",
        "duplicate_in_request",
        "phone_number",
    ]
    check_problem(await plane.http.post(path, json={"leads": []}, headers=plane.auth), 422, "invalid_request")


async def test_a_campaign_that_is_over_takes_no_leads(plane: Plane, campaign: str) -> None:
    await Campaigns(plane.db, plane.settings.tenant).cancel(campaign)
    body = {"number": "+12025550100"}
    path = f"/api/v1/campaigns/{campaign}"
    check_problem(await plane.http.post(f"{path}/leads", json=body, headers=plane.auth), 409, "campaign_over")
    check_problem(await upload(plane, f"campaigns/{campaign}/imports", FILE), 409, "campaign_over")


async def test_a_completed_campaign_takes_leads_files_and_a_scrub_and_runs_again(plane: Plane, campaign: str) -> None:
    campaigns = Campaigns(plane.db, plane.settings.tenant)
    path = f"/api/v1/campaigns/{campaign}"
    await campaigns.start(campaign)

    async def completed() -> bool:
        found, _ = await Leads(plane.db, plane.settings.tenant).list(campaign, limit=100)
        for lead in found:
            await Leads(plane.db, plane.settings.tenant).delete(lead.id)
        return await complete_finished(plane.db, datetime.now(UTC)) == 1

    async def status() -> str:
        row = await campaigns.get(campaign)
        return "none" if row is None else row.status

    lead = {"number": "+12025550101"}
    assert (await plane.http.post(f"{path}/leads", json=lead, headers=plane.auth)).status_code == 201
    assert await completed()
    at = {"at": datetime.now(UTC).isoformat()}
    assert (await plane.http.post(f"{path}/leads/scrubbed", json=at, headers=plane.auth)).status_code == 200
    assert await status() == "completed", "no lead of it may be called for that"
    assert (await plane.http.post(f"{path}/leads", json=lead, headers=plane.auth)).status_code == 201
    assert await status() == "running"
    assert await completed()
    assert (await upload(plane, f"campaigns/{campaign}/imports", FILE, region="us")).status_code == 201
    await work(plane)
    assert await status() == "running"


async def test_leads_are_exported(plane: Plane, campaign: str) -> None:
    body = {"number": "+12025550100", "first_name": "=1+1", "custom_fields": {"company": "ACME"}}
    await plane.http.post(f"/api/v1/campaigns/{campaign}/leads", json=body, headers=plane.auth)
    response = await plane.http.get(f"/api/v1/campaigns/{campaign}/leads.csv", headers=plane.auth)
    (row,) = csv.DictReader(io.StringIO(response.content.decode("utf-8-sig")))
    assert (row["phone"], row["first_name"], row["company"], row["state"]) == ("+12025550100", "'=1+1", "ACME", "ready")


# --- the command line


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(name="spring")
def fixture_spring(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The configured tenant has a campaign of this name."""
    monkeypatch.setenv("PARLEY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("PARLEY_DATABASE__URL", sqlite_url)

    async def make() -> None:
        db = await Database.connect(sqlite_url)
        await add_campaign(db, "spring", tenant="default")
        await db.aclose()

    asyncio.run(make())
    return "spring"


def test_a_file_is_imported_by_the_command_itself(tmp_path: Path, spring: str) -> None:
    rows, expected = rows_with_faults(40)
    file = tmp_path / "list.csv"
    file.write_text(HEADER + "".join(",".join(row) + "\n" for row in rows), encoding="utf-16")
    code, output = run("leads", "import", str(file), "--preview", "--region", "us")
    assert code == 0 and "utf-16" in output and "+12025550000" in output
    code, output = run("leads", "import", str(file), "--campaign", spring, "--region", "US")
    assert code == 0, output
    assert f"{expected['accepted']} accepted" in " ".join(output.split())
    import_id = next(word for word in output.split() if len(word) == 36)
    report = tmp_path / "errors.csv"
    assert run("leads", "errors", import_id, "--out", str(report))[0] == 0
    told = list(csv.DictReader(io.StringIO(report.read_text("utf-8-sig"))))
    assert len(told) == 40 - expected["accepted"] - expected["blank"]
    code, output = run("leads", "import", str(file), "--campaign", spring, "--region", "US")
    assert code == 0 and f"it is import {import_id}" in output
    assert "completed" in run("leads", "imports")[1]
    out = tmp_path / "leads.csv"
    assert run("leads", "export", "--campaign", spring, "--out", str(out))[0] == 0
    assert len(out.read_text("utf-8-sig").splitlines()) == 1 + expected["accepted"]


def test_leads_on_the_command_line(spring: str) -> None:
    code, output = run("leads", "add", "+12025550100", "--campaign", spring, "--first-name", "Ada", "--tag", "warm")
    assert (code, output.strip()) == (0, "+12025550100 is a lead of spring")
    code, output = run("leads", "add", "+12025550100", "--campaign", spring)
    assert code == 1 and "has a lead with the number" in output
    code, output = run("leads", "list", "--campaign", spring, "--state", "ready")
    assert code == 0 and "Ada" in output
    lead_id = next(word for word in output.split() if len(word) == 36)
    assert run("leads", "delete", lead_id)[0] == 0
    assert "there is no lead" in run("leads", "delete", lead_id)[1]
    assert "Ada" not in run("leads", "list", "--campaign", spring)[1]
    consent = ("--consent", "written", "--consent-at", "2026-01-31T12:00:00Z", "--consent-source", "form")
    assert run("leads", "add", "+12025550101", "--campaign", spring, "--field", "plan=gold", *consent)[0] == 0
    assert run("leads", "add", "+12025550102", "--campaign", spring, "--tag", "warm", "--high-value")[0] == 0
    listed = run("leads", "list", "--campaign", spring, "--tag", "warm")[1]
    assert "+12025550102" in listed and "+12025550101" not in listed
    assert "+12025550101" in run("leads", "list", "--campaign", spring, "--number", "+1 202 555 0101")[1]
    assert "+12025" not in run("leads", "list", "--campaign", spring, "--reason", "not_scrubbed")[1]
    now = datetime.now(UTC).isoformat()
    code, output = run("leads", "scrubbed", "--campaign", spring, "--at", now)
    assert (code, output.strip()) == (0, "recorded of 2 leads; 0 that were closed for want of it are ready again")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "2025550100", "--campaign", "spring"), "number: the number has no country code"),
        (("add", "+12025550100", "--campaign", "autumn"), "there is no campaign autumn"),
        (("add", "+12025550100", "--campaign", "spring", "--time-zone", "EST"), "give an IANA name"),
        (("add", "+12025550100", "--campaign", "spring", "--field", "gold"), "write NAME=VALUE"),
        (("add", "+12025550100", "--campaign", "spring", "--consent", "written"), "consent.given_at"),
        (("add", "+12025550100", "--campaign", "spring", "--scrubbed-at", "2099-01-31T00:00:00Z"), "in the future"),
        (("scrubbed", "--campaign", "spring", "--at", "2099-01-31T00:00:00Z"), "in the future"),
        (("scrubbed", "--campaign", "spring", "--at", "2026-01-31"), "it has no offset"),
        (("list", "--campaign", "spring", "--state", "redy"), "--state redy: not one of ready"),
        (("list", "--campaign", "spring", "--result", "bussy"), "--result bussy: not one of busy"),
        (("list", "--campaign", "spring", "--number", "2025550100"), "the number has no country code"),
        (("errors", UNKNOWN), "there is no import"),
    ],
)
def test_a_command_that_is_wrong(spring: str, arguments: tuple[str, ...], told: str) -> None:
    code, output = run("leads", *arguments)
    assert code == 1 and told in output


def test_a_file_that_is_wrong_on_the_command_line(tmp_path: Path, spring: str) -> None:
    file = tmp_path / "list.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    for arguments, told in (
        ((), "--campaign is missing"),
        (("--campaign", spring), "no column is known to hold phone numbers"),
        (("--campaign", spring, "--map", "a:number"), "write HEADER=FIELD"),
        (("--campaign", spring, "--map", "a=nummer"), "did you mean 'number'?"),
    ):
        code, output = run("leads", "import", str(file), *arguments)
        assert code == 1 and told in output, output


def test_a_registry_is_loaded_in_place_of_the_one_before(tmp_path: Path, spring: str) -> None:
    file = tmp_path / "dnc.csv"
    for numbers in (["+12025550100", "+12025550101", "nobody"], ["+12025550102"]):
        file.write_text("".join(f"{number}\n" for number in numbers), encoding="utf-8")
        code, output = run("do-not-call", "registry", str(file), "--name", "us-national")
        assert code == 0, output
        assert ("1 number_not_a_number" in output) == ("nobody" in numbers)
    assert output.strip() == "registry us-national: 1 numbers"
    assert run("do-not-call", "registry", str(file), "--name", "platform", "--everybody")[0] == 0
    file.write_text("phone\nnobody\n", encoding="utf-8")
    code, output = run("do-not-call", "registry", str(file), "--name", "us-national")
    assert code == 1 and "the registry is left as it is" in " ".join(output.split())
    assert run("do-not-call", "registry", str(file), "--name", "US National")[0] == 1

    async def listed() -> dict[str, tuple[str, ...]]:
        db = await Database.connect(str(load_settings().database.url))
        async with db.session() as session:
            found = await number_facts(await session.connection(), "default", ["+12025550100", "+12025550102"])
        await db.aclose()
        return {number: facts.registries for number, facts in found.items()}

    assert asyncio.run(listed()) == {"+12025550100": (), "+12025550102": ("platform", "us-national")}


def test_a_do_not_call_list_on_the_command_line(tmp_path: Path, spring: str) -> None:
    file = tmp_path / "dnc.csv"
    file.write_text("+12025550100\n+12025550101\nnobody\n", encoding="utf-8")
    code, output = run("do-not-call", "import", str(file))
    assert code == 0, output
    listed = run("do-not-call", "list")[1]
    assert "+12025550100" in listed and "+12025550101" in listed and "dnc.csv" in listed
