"""Numbers to call from and what tenants may use, as people state them: by API and on the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli.common import with_database
from serve_app.cli.main import app
from serve_app.dialing.caller_ids import allowance
from serve_app.store.callers import owner_of
from serve_app.store.campaign_rows import TenantRow
from serve_app.store.numbers import numbers_in_use
from serve_app.store.repositories import Numbers, Tenants
from tests.unit.api_support import FROM, Plane
from tests.unit.test_api_calls import check_problem

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

NUMBER = "+12025550101"
NUMBERS = "/api/v1/numbers"
SALES = {"pool": "sales", "region": "US-DC", "daily_cap": 40, "agent": "riverside-dental"}


async def test_a_number_is_stated_called_from_rested_and_retired(plane: Plane) -> None:
    tenant = plane.settings.tenant
    numbers = Numbers(plane.db, tenant)

    async def may_call() -> bool:
        now = datetime.now(UTC)
        async with plane.db.engine.connect() as connection:
            pool = await numbers_in_use(connection, tenant, "sales", now)
        return any(allowance(use.number, now) for use in pool)

    made = await plane.http.put(
        f"{NUMBERS}/{NUMBER}", json=SALES | {"warmup_from": "2026-01-05T00:00:00-05:00"}, headers=plane.auth
    )
    assert made.status_code == 200, made.text
    assert (
        made.json().items()
        >= (SALES | {"number": NUMBER, "state": "active", "warmup_from": "2026-01-05T05:00:00Z"}).items()
    )
    assert plane.woken == [f"dialer: {plane.settings.tenant}"]
    assert await may_call()
    row = await numbers.get(NUMBER)
    assert row is not None and (row.agent_name, row.daily_cap) == ("riverside-dental", 40)

    until = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    rest = await plane.http.post(
        f"{NUMBERS}/{NUMBER}/rest", json={"until": until, "reason": "labelled"}, headers=plane.auth
    )
    assert (rest.json()["state"], rest.json()["state_reason"]) == ("cooling", "labelled")
    assert not await may_call()
    anew = await plane.http.put(f"{NUMBERS}/{NUMBER}", json=SALES | {"daily_cap": 50}, headers=plane.auth)
    assert (anew.json()["state"], anew.json()["daily_cap"], anew.json()["warmup_from"]) == ("cooling", 50, None)
    assert (await plane.http.post(f"{NUMBERS}/{NUMBER}/activate", headers=plane.auth)).json()["state"] == "active"
    assert await may_call()
    await plane.http.post(f"{NUMBERS}/{NUMBER}/retire", json={"reason": "given back"}, headers=plane.auth)
    assert not await may_call()
    listed = (await plane.http.get(NUMBERS, params={"pool": "sales"}, headers=plane.auth)).json()["items"]
    assert [(one["number"], one["state"]) for one in listed] == [(NUMBER, "retired")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"pool": "Sales!"}, "pool"),
        ({"region": "Texas"}, "region"),
        ({"daily_cap": 0}, "daily_cap"),
        ({"warmup_from": "2026-01-05T00:00:00"}, "warmup_from"),
        ({"agent": "nobody"}, "agent"),
        ({"attestation": "D"}, "attestation"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_what_is_wrong_with_a_number_is_named(plane: Plane, change: dict[str, object], field: str) -> None:
    answer = await plane.http.put(f"{NUMBERS}/{NUMBER}", json=SALES | change, headers=plane.auth)
    assert answer.status_code == 422
    assert field in str(answer.json()["errors"])
    assert await Numbers(plane.db, plane.settings.tenant).list() == []


async def test_a_text_that_is_no_number_and_a_rest_that_is_over_are_refused(plane: Plane) -> None:
    assert (await plane.http.put(f"{NUMBERS}/12025550101", json=SALES, headers=plane.auth)).status_code == 422
    await plane.http.put(f"{NUMBERS}/{NUMBER}", json=SALES, headers=plane.auth)
    past = {"until": "2026-01-01T00:00:00Z", "reason": "labelled"}
    answer = await plane.http.post(f"{NUMBERS}/{NUMBER}/rest", json=past, headers=plane.auth)
    assert answer.json()["errors"][0]["field"] == "until"


async def test_a_number_has_one_owner_until_it_is_retired(plane: Plane) -> None:
    stranger = await plane.another_key("globex")
    own = {"headers": plane.auth, "json": SALES | {"agent": None}}
    theirs = {"headers": stranger, "json": {"pool": "sales"}}
    assert (await plane.http.put(f"{NUMBERS}/{NUMBER}", **own)).status_code == 200
    check_problem(await plane.http.put(f"{NUMBERS}/{NUMBER}", **theirs), 409, "number_taken")
    # The shared number of the account is that of the configured tenant, if of anybody.
    check_problem(await plane.http.put(f"{NUMBERS}/{FROM}", **theirs), 409, "number_taken")
    assert (await plane.http.put(f"{NUMBERS}/{FROM}", **own)).status_code == 200
    await plane.http.post(f"{NUMBERS}/{NUMBER}/retire", json={"reason": "given back"}, headers=plane.auth)
    assert await owner_of(plane.db, NUMBER) == plane.settings.tenant, "who calls back is answered"
    assert (await plane.http.put(f"{NUMBERS}/{NUMBER}", **theirs)).status_code == 200
    assert await owner_of(plane.db, NUMBER) == "globex"
    check_problem(await plane.http.post(f"{NUMBERS}/{NUMBER}/activate", headers=plane.auth), 409, "number_taken")


# --- the command line


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PARLEY_DATA_DIR", str(tmp_path / "data"))
    assert run("db", "upgrade")[0] == 0
    yield tmp_path / "data"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.usefixtures("data_dir")
def test_numbers_on_the_command_line() -> None:
    assert run("number", "add", NUMBER, "--pool", "sales", "--daily-cap", "40", "--region", "US-DC")[0] == 0
    listed = run("number", "list")[1]
    assert all(word in listed for word in (NUMBER, "sales", "active", "40", "US-DC"))
    assert run("number", "rest", NUMBER, "--until", "2100-01-01T00:00:00Z", "--reason", "labelled [spam]")[0] == 0
    assert "cooling" in (listed := run("number", "list")[1]) and "labelled [spam]" in listed
    assert "number activate" in run("number", "add", NUMBER)[1], "stating it anew does not end its rest"
    assert run("number", "activate", NUMBER)[0] == 0
    assert run("number", "retire", NUMBER, "--reason", "given back")[0] == 0
    assert "retired" in run("number", "list", "--pool", "default")[1]


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "202 555 0101"), "country code"),
        (("add", NUMBER, "--region", "Texas"), "--region Texas"),
        (("add", NUMBER, "--daily-cap", "0"), "--daily-cap 0"),
        (("add", NUMBER, "--warmup-from", "monday"), "--warmup-from monday"),
        (("add", NUMBER, "--agent", "nobody"), "parley agent apply"),
        (("rest", NUMBER, "--until", "2020-01-01T00:00:00Z", "--reason", "x"), "--until"),
        (("retire", NUMBER, "--reason", " "), "--reason is empty"),
        (("retire", NUMBER, "--reason", "x"), "parley number list"),
        (("activate", NUMBER), "parley number list"),
    ],
)
def test_what_is_wrong_with_a_number_is_named_on_the_command_line(arguments: tuple[str, ...], told: str) -> None:
    code, output = run("number", *arguments)
    assert (code, told in output) == (1, True), output


def tenant_row(name: str | None = None) -> TenantRow | None:
    return asyncio.run(with_database(lambda db, configured: Tenants(db, name or configured).get()))


@pytest.mark.usefixtures("data_dir")
def test_a_tenant_gets_its_plan_and_limits() -> None:
    assert "basic" in run("tenant", "show")[1] and tenant_row() is None
    assert run("tenant", "set", "--plan", "professional", "--max-concurrent", "20", "--weight", "3")[0] == 0
    row = tenant_row()
    assert row is not None and (row.plan, row.max_concurrent, row.weight, row.status) == (
        "professional",
        20,
        3,
        "active",
    )
    assert run("tenant", "set", "--max-concurrent", "none", "--status", "suspended", "--business-name", "Acme")[0] == 0
    row = tenant_row()
    assert row is not None and (row.plan, row.max_concurrent, row.weight) == ("professional", None, 3), "the rest stays"
    assert "suspended" in run("tenant", "show")[1]
    assert run("tenant", "set", "--tenant", "globex", "--weight", "2")[0] == 0
    other = tenant_row("globex")
    assert other is not None and (other.plan, other.weight) == ("basic", 2)


@pytest.mark.usefixtures("data_dir")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "nothing to change"),
        (("--plan", "profesional"), "did you mean professional"),
        (("--max-concurrent", "0"), "--max-concurrent 0"),
        (("--max-concurrent", "many"), "or none"),
        (("--weight", "0"), "--weight 0"),
        (("--status", "asleep"), "active, suspended"),
        (("--tenant", "a b", "--weight", "2"), "--tenant a b"),
        (("--business-name", " "), "--business-name"),
    ],
)
def test_what_is_wrong_with_a_tenant_is_named(arguments: tuple[str, ...], told: str) -> None:
    code, output = run("tenant", "set", *arguments)
    assert (code, told in output) == (1, True), output
    assert tenant_row() is None
