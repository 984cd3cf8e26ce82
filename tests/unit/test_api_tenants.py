"""No route shows or changes what another tenant has: every route of the API's own description is tried."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from serve_app.jobs.import_file import ImportFile
from serve_app.store.campaigns import Campaigns
from serve_app.store.imports import IMPORT_FILE
from serve_app.store.leads import NewLead
from serve_app.store.repositories import Agents, Jobs, Leads, Numbers, Recordings, Turns
from tests.unit.api_support import AGENT, Plane
from tests.unit.campaign_support import claim
from tests.unit.store_fixtures import finish, inbound, rows_of
from tests.unit.test_api_calls import check_problem

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

OWNER = "default"
SECRET = "xanadu"
"""In every text of the owner's, and in none of the stranger's requests."""
NUMBER = "+12025550177"
OWN_NUMBER = "+12025550101"
NOBODY = {"Authorization": "Bearer pk_nobodys"}
WITHOUT_KEY = re.compile(r"/(health|ready|metrics|webhooks/.*)")
"""For everybody: no tenant's data. Webhooks are signed, see their own tests."""
FILE = b"phone,first name\n+12025550188,Kubla\n"


@dataclass(frozen=True)
class Request:
    """What a stranger asks of a route, and what has to come back."""

    json: Any = None
    content: bytes | None = None
    params: dict[str, Any] = field(default_factory=dict)
    status: int = 404
    answer: dict[str, Any] = field(default_factory=lambda: {"code": "not_found"})
    """Part of the answer."""


NOTHING = Request(status=200, answer={"items": []})
NO_AGENT = {"status": 422, "answer": {"code": "no_agent"}}
CAMPAIGN = "/api/v1/campaigns/{campaign_id}"
SPECIAL = {
    # With the id of something of the owner's in their path: 404, as for what is not there.
    f"PATCH {CAMPAIGN}": Request({"goal": "mine"}),
    f"POST {CAMPAIGN}/schedule": Request({"at": "2027-01-11T09:00:00Z"}),
    f"POST {CAMPAIGN}/stop": Request({"end_live_calls": True}),
    f"POST {CAMPAIGN}/reopen": Request({"reason": "not_scrubbed"}),
    f"POST {CAMPAIGN}/leads": Request({"number": "+12025550188"}),
    f"POST {CAMPAIGN}/leads/bulk": Request({"leads": [{"number": "+12025550188"}]}),
    f"POST {CAMPAIGN}/leads/scrubbed": Request({"at": "2026-11-20T00:00:00Z"}),
    f"POST {CAMPAIGN}/imports": Request(content=FILE),
    "POST /api/v1/calls/{call_id}/result": Request({"result": "success"}),
    # A number has one owner: who else asks for it is told no more than that.
    "PUT /api/v1/numbers/{number}": Request({"pool": "mine"}, status=409, answer={"code": "number_taken"}),
    "POST /api/v1/numbers/{number}/rest": Request({"until": "2100-01-01T00:00:00Z", "reason": "mine"}),
    "POST /api/v1/numbers/{number}/retire": Request({"reason": "mine"}),
    # An agent's name is each tenant's own.
    "PUT /api/v1/agents/{name}": Request(AGENT | {"name": "front-desk"}, status=200, answer={"version": 1}),
    # Without an id: what comes back is the stranger's own, and that is nothing.
    "GET /api/v1/agents": NOTHING,
    "GET /api/v1/calls": NOTHING,
    "POST /api/v1/calls": Request({"to": NUMBER, "agent": "front-desk"}, **NO_AGENT),
    "GET /api/v1/campaigns": NOTHING,
    "GET /api/v1/numbers": Request(params={"pool": "default"}, status=200, answer={"items": []}),
    "POST /api/v1/campaigns": Request(
        {"name": "spring", "agent": "front-desk", "calling_rules": {"countries": ["US"]}}, **NO_AGENT
    ),
    "GET /api/v1/consents": Request(params={"number": NUMBER}, status=200, answer={"items": []}),
    "POST /api/v1/consents": Request(
        {"number": NUMBER, "kind": "written", "source": "form", "given_at": "2026-01-05T12:00:00Z"},
        status=201,
        answer={"number": NUMBER},
    ),
    "POST /api/v1/consents/revoke": Request({"number": NUMBER}, status=200, answer={"revoked": 0}),
    "GET /api/v1/do-not-call": Request(params={"removed": True}, status=200, answer={"items": []}),
    "POST /api/v1/do-not-call": Request({"number": NUMBER, "text": "by letter"}, status=201, answer={"number": NUMBER}),
    "POST /api/v1/do-not-call/remove": Request({"number": NUMBER, "reason": "x"}, answer={"code": "not_listed"}),
    "POST /api/v1/do-not-call/imports": Request(content=FILE, status=201, answer={"status": "queued"}),
    "GET /api/v1/imports": Request(params={"campaign_id": "{campaign_id}"}, status=200, answer={"items": []}),
    "POST /api/v1/imports/preview": Request(content=FILE, status=200, answer={"has_header": True}),
    "GET /api/v1/kill-switches": Request(params={"lifted": True}, status=200, answer={"items": []}),
    "POST /api/v1/kill-switches": Request({"scope": "campaign", "campaign_id": "{campaign_id}", "reason": "mine"}),
    "POST /api/v1/kill-switches/lift": Request({"scope": "number", "number": NUMBER}, answer={"code": "not_on"}),
}


async def populate(plane: Plane) -> dict[str, str]:
    """Something of the owner's behind every route; the ids that stand in paths."""
    db = plane.db

    async def post(path: str, status: int = 201, **request: Any) -> dict[str, Any]:
        response = await plane.http.post(f"/api/v1/{path}", headers=plane.auth, **request)
        assert response.status_code == status, response.text
        document: dict[str, Any] = response.json()
        return document

    await Agents(db, OWNER).apply("front-desk", AGENT | {"name": "front-desk", "system_prompt": f"You know {SECRET}."})
    rules = {"name": f"{SECRET} spring", "agent": "front-desk", "calling_rules": {"countries": ["US"]}}
    campaign = await post("campaigns", json=rules)
    await post(f"campaigns/{campaign['id']}/start", 200)
    await Leads(db, OWNER).add(campaign["id"], [NewLead("+12025550179", first_name=SECRET)])
    row = await Campaigns(db, OWNER).get(campaign["id"])
    assert row is not None
    (held,) = (await claim(db, row)).leads  # a live call
    file = f"phone,first name\n{NUMBER},{SECRET}\n{SECRET},nobody\n".encode()
    sent = await post(f"campaigns/{campaign['id']}/imports", content=file, params={"filename": f"{SECRET}.csv"})
    jobs = Jobs(db)
    (job,) = await jobs.lease("w", kinds=[IMPORT_FILE], limit=1, lease_s=60)
    await ImportFile(db, plane.deps.objects, processes=1)(job)
    await post("kill-switches", json={"scope": "number", "number": NUMBER, "reason": SECRET})
    await Numbers(db, OWNER).put(OWN_NUMBER, region="US-XX")
    given = {"number": NUMBER, "kind": "written", "source": SECRET, "given_at": "2026-01-05T12:00:00Z"}
    await post("consents", json=given)
    await post("do-not-call", json={"number": NUMBER, "text": SECRET})
    over = await inbound(db, OWNER)
    await Turns(db, OWNER).put(over.id, 0, "callee", SECRET, SECRET, 0, 1, False, False, {"total_ms": 1})
    await finish(db, over)
    await Recordings(db, OWNER).put(
        over.id, key=SECRET, format="wav", channels=1, sample_rate_hz=8000, duration_s=1.0, bytes=1, peaks=[]
    )
    ids = {"campaign_id": campaign["id"], "lead_id": held.lead.id, "import_id": sent["id"], "name": "front-desk"}
    ids |= {"number": OWN_NUMBER}
    return ids | {"call_id": held.call_id, "over_call_id": over.id}


async def routes(plane: Plane) -> list[tuple[str, str]]:
    """(method, path) of every route that needs a key."""
    paths = (await plane.http.get("/openapi.json")).json()["paths"]
    return [
        (method.upper(), path)
        for path, methods in sorted(paths.items())
        for method in methods
        if not WITHOUT_KEY.fullmatch(path)
    ]


def filled(value: Any, ids: dict[str, str]) -> Any:
    """With the owner's ids in place of their names in braces."""
    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", lambda found: ids[found[1]], value)
    if isinstance(value, dict):
        return {name: filled(one, ids) for name, one in value.items()}
    return value


async def test_a_stranger_sees_and_changes_nothing_on_any_route(plane: Plane) -> None:
    ids = await populate(plane)
    known = await routes(plane)
    assert len(known) >= 45
    assert SPECIAL.keys() <= {f"{method} {path}" for method, path in known}, "a route that is asked for is gone"
    before = await rows_of(plane.db, OWNER)
    assert SECRET in repr(before)
    for number, (method, path) in enumerate(known):
        name = f"{method} {path}"
        assert "{" in path or name in SPECIAL, f"{name} is new: say in SPECIAL what a stranger gets there"
        stranger = await plane.another_key(f"stranger-{number}")
        request = SPECIAL.get(name, Request({} if method == "POST" else None))
        for call_id in ("call_id", "over_call_id") if "{call_id}" in path else ("call_id",):
            response = await plane.http.request(
                method,
                filled(path, ids | {"call_id": ids[call_id]}),
                json=filled(request.json, ids),
                content=request.content,
                params=filled(request.params, ids),
                headers=stranger,
            )
            assert response.status_code == request.status, f"{name}: {response.text}"
            assert SECRET not in response.text, name
            if request.status >= 400:
                check_problem(response, request.status, request.answer["code"])
            else:
                assert request.answer.items() <= response.json().items(), name
        assert await rows_of(plane.db, OWNER) == before, name


@pytest.mark.parametrize("headers", [{}, NOBODY], ids=["no key", "an unknown key"])
async def test_nobody_gets_anything_without_a_key(plane: Plane, headers: dict[str, str]) -> None:
    unknown = dict.fromkeys(("campaign_id", "lead_id", "import_id"), "00000000-0000-7000-8000-000000000000")
    ids = unknown | {"call_id": unknown["lead_id"], "name": "front-desk", "number": OWN_NUMBER}
    before = await rows_of(plane.db, OWNER)
    for method, path in await routes(plane):
        request = SPECIAL.get(f"{method} {path}", Request())
        response = await plane.http.request(
            method,
            filled(path, ids),
            json=filled(request.json, ids),
            params=filled(request.params, ids),
            headers=headers,
        )
        check_problem(response, 401, "unauthorized")
    assert await rows_of(plane.db, OWNER) == before
