"""What came of a conversation: reported by the model or by a person, heard by the network, and what the lead gets."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from serve_app.conversation import turn_types as t
from serve_app.conversation.lease import CallLease
from serve_app.conversation.results import RESULTS, Report, ReportRefusedError, checked, of_arguments, tool_of
from serve_app.dialing.dispositions import REPORTABLE
from serve_app.dialing.settling import settle_lead
from serve_app.errors import UnavailableError
from serve_app.providers.base import ChatRequest
from serve_app.scenarios.scripted_llm import Answer
from serve_app.store.leads import NewLead
from serve_app.store.repositories import Attempts
from tests.unit import campaign_support as support
from tests.unit.api_support import Plane
from tests.unit.session_fixtures import Memory, Scene
from tests.unit.test_api_calls import check_problem

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

ZONE = "America/New_York"
NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)
TENANT = "default"


def test_all_that_can_be_reported_is_offered() -> None:
    assert set(RESULTS) == set(map(str, REPORTABLE))
    told = json.dumps(tool_of(ZONE, NOW))
    assert "Monday 2026-11-23T10:00" in told and ZONE in told, "the model knows what time it is for the callee"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"result": "success"}, Report("success")),
        ({"result": "callback"}, Report("callback")),
        ({"result": "callback", "callback_at": ""}, Report("callback")),
        (
            {"result": "callback", "callback_at": "2026-11-23T15:30"},
            Report("callback", datetime(2026, 11, 23, 20, 30, tzinfo=UTC)),
        ),
        (
            {"result": "callback", "callback_at": "2026-11-23T15:30Z"},
            Report("callback", datetime(2026, 11, 23, 15, 30, tzinfo=UTC)),
        ),
    ],
)
def test_a_report_of_the_model_is_read(told: dict[str, object], expected: Report) -> None:
    assert of_arguments(told, zone=ZONE, now=NOW) == expected


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({}, "result"),
        ({"result": ["success"]}, "result"),
        ({"result": "opt_out"}, "result"),
        ({"result": "callback", "callback_at": "tomorrow at five"}, "callback_at"),
        ({"result": "callback", "callback_at": 5}, "callback_at"),
        ({"result": "callback", "callback_at": "2026-11-23T09:59"}, "callback_at"),
        ({"result": "callback", "callback_at": "2027-11-23T10:00"}, "callback_at"),
        ({"result": "success", "callback_at": "2026-11-24T10:00"}, "callback_at"),
    ],
)
def test_what_cannot_be_used_is_named(told: dict[str, object], field: str) -> None:
    with pytest.raises(ReportRefusedError) as refused:
        of_arguments(told, zone=ZONE, now=NOW)
    assert refused.value.field == field and refused.value.remedy


def test_the_farthest_callback_is_ninety_days_away() -> None:
    at = NOW + timedelta(days=90)
    assert checked("callback", at, zone=ZONE, now=NOW).callback_at == at
    with pytest.raises(ReportRefusedError):
        checked("callback", at + timedelta(seconds=1), zone=ZONE, now=NOW)


# --- in a conversation


async def says_no(scene: Scene) -> None:
    await scene.converse("I am not interested")
    scene.net.drop(1000)


def reports(*told: dict[str, Any], text: str = "I understand.") -> Any:
    left = list(told)

    def script(request: ChatRequest) -> Answer:
        return Answer(text, tool="report_result", arguments=left.pop(0)) if left else Answer("Is there anything else?")

    return script


def scene_of(**changes: Any) -> Scene:
    scene = Scene(lead_zone=ZONE, **changes)
    scene.llm.script = reports({"result": "not_interested"})
    return scene


def offered(request: ChatRequest) -> set[str]:
    return {str(tool["function"]["name"]) for tool in request.tools}  # type: ignore[index]


def test_a_report_is_written_and_the_talk_goes_on() -> None:
    scene = scene_of()
    scene.play(says_no)
    assert scene.memory.reports == [Report("not_interested")]
    assert "I understand." in scene.agent_heard()
    assert "report_result" in offered(scene.llm.requests[0])
    assert not any(isinstance(event, t.ToolCalled) for _, event, _ in scene.record.turns), "no matter of the talk"
    assert scene.nothing_is_left()


def test_a_report_without_words_is_asked_for_words() -> None:
    scene = scene_of()
    scene.llm.script = reports({"result": "not_interested"}, text="")
    scene.play(says_no)
    assert scene.memory.reports == [Report("not_interested")]
    assert "Is there anything else?" in scene.agent_heard(), "nobody waits for an answer in silence"


def test_a_call_for_nobodys_sake_offers_no_report_and_takes_none() -> None:
    scene = Scene()
    scene.llm.script = reports({"result": "not_interested"})
    scene.play(says_no)
    assert scene.memory.reports == []
    assert "report_result" not in offered(scene.llm.requests[0])


def test_the_model_is_told_what_it_cannot_report_and_the_last_report_counts() -> None:
    scene = scene_of()
    scene.llm.script = reports(
        {"result": "callback", "callback_at": "soon"}, {"result": "callback"}, {"result": "success"}
    )

    async def callee(scene: Scene) -> None:
        await scene.converse("Call me another time", "Yes", "All right then")
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.memory.reports[-1] == Report("success")
    results = [message.content for message in scene.llm.requests[-1].messages if message.role == "tool"]
    assert results[0].startswith("refused: callback_at") and results[1] == "done"


class Away(Memory):
    """Cannot take a report while the call goes on."""

    tries = 0

    async def report(self, lease: CallLease, report: Report) -> None:
        self.tries += 1
        if self.tries == 1:
            raise UnavailableError("the store is away")
        assert not self.results, "the end of the call decides what becomes of the lead"
        await super().report(lease, report)


def test_a_report_that_was_not_written_is_written_before_the_end() -> None:
    memory = Away()
    scene_of(memory=memory).play(says_no)
    assert (memory.tries, memory.reports) == (2, [Report("not_interested")])
    assert len(memory.results) == 1


def test_a_draft_reports_nothing() -> None:
    """What is drafted for words that turn out otherwise was never said."""
    scene = scene_of()

    async def callee(scene: Scene) -> None:
        await scene.net.agent_has_spoken()
        await scene.say("I am")
        scene.session._post(t.CalleeTurnMayEnd("I am not interested"))
        await asyncio.sleep(2)
        scene.session._post(t.CalleeTurnResumed())
        scene.net.drop(1000)

    scene.play(callee)
    assert scene.memory.reports == []


# --- by a person, and by the network


async def placed(plane: Plane, number: str = support.number(1)) -> tuple[Any, Any]:
    row = await support.campaign(plane.db, leads=[NewLead(number, zones=[ZONE])], tenant=TENANT)
    (claimed,) = (await support.claim(plane.db, row)).leads
    assert await support.send(plane.db, claimed.attempt_id, TENANT)
    return row, claimed


async def test_a_person_reports_and_the_lead_is_settled_anew(plane: Plane) -> None:
    row, claimed = await placed(plane)
    path = f"/api/v1/calls/{claimed.call_id}/result"
    await support.end(plane.db, claimed.call_id, "callee_hung_up", tenant=TENANT, talked_s=40.0)
    lead = await support.lead_of(plane.db, row, claimed.lead.number)
    assert (lead.state, lead.last_result) == ("deferred", "reached_incomplete")

    local = (datetime.now(UTC) + timedelta(days=2)).replace(hour=20, minute=0, second=0, microsecond=0, tzinfo=None)
    told = {"result": "callback", "callback_at": local.isoformat()}
    answer = await plane.http.post(path, json=told, headers=plane.auth)
    assert answer.status_code == 200, answer.text
    at = datetime.fromisoformat(answer.json()["callback_at"])
    assert at.utcoffset() != timedelta(0) and at.replace(tzinfo=None) == local, "in the time of the lead"
    lead = await support.lead_of(plane.db, row, claimed.lead.number)
    assert (lead.state, lead.last_result, lead.attempts) == ("deferred", "callback", 1)
    assert at <= lead.next_at <= at + timedelta(minutes=2)

    assert (await plane.http.post(path, json={"result": "success"}, headers=plane.auth)).status_code == 200
    lead = await support.lead_of(plane.db, row, claimed.lead.number)
    assert (lead.state, lead.last_result, lead.attempts) == ("done", "success", 1)


async def test_a_wrong_number_is_never_called_again(plane: Plane) -> None:
    row, claimed = await placed(plane)
    await support.end(plane.db, claimed.call_id, "completed", tenant=TENANT, talked_s=40.0)
    path = f"/api/v1/calls/{claimed.call_id}/result"
    assert (await plane.http.post(path, json={"result": "wrong_number"}, headers=plane.auth)).status_code == 200
    lead = await support.lead_of(plane.db, row, claimed.lead.number)
    assert (lead.state, lead.last_reason) == ("barred", "wrong_number")
    listed = (await plane.http.get("/api/v1/do-not-call", headers=plane.auth)).json()["items"]
    assert [one["number"] for one in listed] == [claimed.lead.number]


async def test_reports_that_mean_nothing_are_refused(plane: Plane) -> None:
    _, claimed = await placed(plane)
    path = f"/api/v1/calls/{claimed.call_id}/result"

    async def told(status: int, **body: Any) -> Any:
        answer = await plane.http.post(path, json=body, headers=plane.auth)
        assert answer.status_code == status, answer.text
        return answer.json()

    assert (await told(422, result="callback", callback_at="2020-01-01T10:00"))["errors"][0]["field"] == "callback_at"
    assert (await told(422, result="success", callback_at="2100-01-01T10:00"))["errors"][0]["field"] == "callback_at"
    await told(422, result="opt_out")
    await support.end(plane.db, claimed.call_id, "busy", tenant=TENANT)
    assert (await told(409, result="success"))["code"] == "not_answered"
    single = await plane.place()
    answer = await plane.http.post(
        f"/api/v1/calls/{single['id']}/result", json={"result": "success"}, headers=plane.auth
    )
    check_problem(answer, 409, "no_lead")


@pytest.mark.parametrize("conversation_first", [True, False])
async def test_the_conversation_knows_better_than_the_network(plane: Plane, conversation_first: bool) -> None:
    row, claimed = await placed(plane)
    attempts = Attempts(plane.db, TENANT)
    reported = [
        lambda: attempts.report(claimed.call_id, "success"),
        lambda: attempts.report(claimed.call_id, "machine", unless_told=True, verdict=settle_lead),
    ]
    for report in reported if conversation_first else reversed(reported):
        await report()
    await support.end(plane.db, claimed.call_id, "completed", tenant=TENANT, talked_s=40.0)
    assert (await support.lead_of(plane.db, row, claimed.lead.number)).last_result == "success"
