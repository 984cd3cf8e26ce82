"""Somebody calls one of our numbers: who answers, what that agent knows, and how the caller gets off the list."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from serve_app.conversation.lease import CallLease
from serve_app.conversation.opt_out_keeper import OptOutKeeper
from serve_app.dialing.links import AttemptRef
from serve_app.store.campaign_rows import CampaignRow
from serve_app.store.lead_claims import Choice, PlaceCall
from serve_app.store.leads import NewLead
from serve_app.store.parked_opt_outs import HeardOptOut
from serve_app.store.repositories import Agents, Calls, DoNotCall, Leads, Numbers
from tests.unit import campaign_support as support
from tests.unit.api_support import AGENT, FROM, PUBLIC_URL, Plane, send
from tests.unit.store_fixtures import outbound

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

TENANT = "default"
CALLER = support.number(1)
TEMPLATE = AGENT | {
    "name": "front-desk",
    "opening": "Hello {{first_name|there}}.",
    "inbound_opening": "Thank you for calling, {{first_name|friend}}. Press nine if we should not call again.",
    "system_prompt": "You call about {{goal|something}}. Last visit: {{custom.last_visit|unknown}}.",
}


async def answer(plane: Plane, uuid: str, *, to: str, caller: str = CALLER) -> CallLease | None:
    """What the session of an inbound call is given; None: the caller hears an apology."""
    question = {"to": to[1:], "from": caller[1:], "uuid": uuid, "conversation_uuid": "CON-1"}
    ncco = (await send(plane, "/webhooks/vonage/answer", question)).json()
    if ncco[0]["action"] == "talk":
        return None
    token = ncco[-1]["endpoint"][0]["authorization"]["value"].removeprefix("Bearer ")
    return CallLease.model_validate_json(await plane.live.take_media_token(token) or "")


async def called(
    plane: Plane, *, tenant: str = TENANT, name: str = "spring", own: str = support.OWN, **values: Any
) -> CampaignRow:
    """A campaign whose call to CALLER was asked of the network, and has ended."""
    lead = NewLead(CALLER, first_name="Ann", custom_fields={"Last visit": "in May"})
    row = await support.campaign(plane.db, leads=[lead], tenant=tenant, name=name, goal="a check-up", **values)
    await Agents(plane.db, tenant).apply("front-desk", TEMPLATE)

    def choose(lead: Any, facts: Any, known: Any) -> Choice:
        return PlaceCall(own, facts.agent_version, datetime.now(UTC) + timedelta(seconds=60), "allowed")

    (held,) = (await support.claim(plane.db, row, choose)).leads
    assert await support.send(plane.db, held.attempt_id, tenant)
    await support.end(plane.db, held.call_id, "not_answered", tenant=tenant)
    return row


async def test_who_was_called_reaches_the_agent_of_that_campaign_which_knows_the_lead(plane: Plane) -> None:
    row = await called(plane)
    lease = await answer(plane, "in-1", to=support.OWN)
    assert lease is not None
    assert (lease.agent.name, lease.direction, lease.callee_number) == ("front-desk", "inbound", CALLER)
    assert lease.agent.opening == "Thank you for calling, Ann. Press nine if we should not call again."
    assert lease.agent.system_prompt == "You call about a check-up. Last visit: in May."
    call = await Calls(plane.db, TENANT).get(lease.call_id)
    lead = await support.lead_of(plane.db, row, CALLER)
    assert call is not None
    assert call.metadata == {"campaign_id": row.id, "lead_id": lead.id}


async def test_an_outbound_call_of_a_campaign_speaks_of_its_lead(plane: Plane) -> None:
    await support.campaign(plane.db, leads=[], tenant=TENANT, name="other")
    await Agents(plane.db, TENANT).apply("front-desk", TEMPLATE)
    lead = NewLead(CALLER, first_name="Ann")
    row = await support.campaign(plane.db, leads=[lead], tenant=TENANT, goal="a check-up")
    await Agents(plane.db, TENANT).apply("front-desk", TEMPLATE | {"knowledge": ["Be kind to {{first_name|them}}."]})
    (held,) = (await support.claim(plane.db, row)).leads
    assert await support.send(plane.db, held.attempt_id, TENANT)
    links = plane.deps.links()
    url = links.answer_url(AttemptRef(TENANT, held.attempt_id))
    body = {"uuid": "out-1", "to": CALLER[1:], "from": support.OWN[1:], "conversation_uuid": "CON-1"}
    ncco = (await send(plane, url.removeprefix(PUBLIC_URL), body)).json()
    token = ncco[-1]["endpoint"][0]["authorization"]["value"].removeprefix("Bearer ")
    lease = CallLease.model_validate_json(await plane.live.take_media_token(token) or "")
    assert lease.agent.opening == "Hello Ann."
    assert lease.agent.knowledge == ("Be kind to Ann.",)
    assert lease.agent.system_prompt == "You call about a check-up. Last visit: unknown."


async def test_a_stranger_reaches_the_agent_of_the_number_else_the_default(plane: Plane) -> None:
    await Agents(plane.db, TENANT).apply("night-desk", AGENT | {"name": "night-desk"})
    await Numbers(plane.db, TENANT).put(support.OWN, agent_name="night-desk")
    await Numbers(plane.db, TENANT).put("+12015550101", agent_name="nobody")
    for to, name in ((support.OWN, "night-desk"), ("+12015550101", "riverside-dental"), (FROM, "riverside-dental")):
        lease = await answer(plane, f"in{to}", to=to, caller=support.number(9))
        assert lease is not None and lease.agent.name == name, to


async def test_the_campaign_that_called_from_the_dialled_number_comes_first(plane: Plane) -> None:
    await called(plane)
    other = await support.campaign(
        plane.db, leads=[NewLead(CALLER, first_name="Bea")], tenant=TENANT, name="autumn", goal="a survey"
    )
    await Agents(plane.db, TENANT).apply("front-desk", TEMPLATE)
    later = datetime.now(UTC) + timedelta(seconds=5)

    def from_another(lead: Any, facts: Any, known: Any) -> Choice:
        return PlaceCall("+12015550101", facts.agent_version, later + timedelta(seconds=60), "allowed")

    (held,) = (await support.claim(plane.db, other, from_another, now=later)).leads
    assert await support.send(plane.db, held.attempt_id, TENANT, now=later)
    await support.end(plane.db, held.call_id, "busy", tenant=TENANT)
    for to, name in ((support.OWN, "Ann"), ("+12015550101", "Bea"), ("+12015550102", "Bea")):
        lease = await answer(plane, f"in{to}", to=to)
        assert lease is not None and name in lease.agent.opening, to


async def test_a_number_of_another_tenant_is_answered_by_that_tenant(plane: Plane) -> None:
    await called(plane, tenant="globex")
    await Numbers(plane.db, "globex").put(support.OWN)
    lease = await answer(plane, "in-1", to=support.OWN)
    assert lease is not None
    assert (lease.tenant_id, lease.agent.name) == ("globex", "front-desk")
    # Its events find it too, though nothing but the numbers tells whose it is.
    over = {"uuid": "in-1", "status": "completed", "to": support.OWN[1:], "from": CALLER[1:], "direction": "inbound"}
    assert (await send(plane, "/webhooks/vonage/event", over)).status_code == 200
    call = await Calls(plane.db, "globex").get(lease.call_id)
    assert call is not None and (call.status, call.outcome) == ("failed", "media_failure")
    assert await Calls(plane.db, TENANT).get(lease.call_id) is None


async def test_a_caller_who_hung_up_before_the_question_came_is_not_connected(plane: Plane) -> None:
    over = {"uuid": "in-1", "status": "completed", "to": support.OWN[1:], "from": CALLER[1:], "direction": "inbound"}
    assert (await send(plane, "/webhooks/vonage/event", over)).status_code == 200
    assert await answer(plane, "in-1", to=support.OWN) is None
    (call,) = (await plane.http.get("/api/v1/calls", headers=plane.auth)).json()["items"]
    assert (call["status"], call["outcome"]) == ("failed", "not_answered")
    assert (await plane.live.capacity())[1] == 0


async def test_a_caller_who_opts_out_is_listed_and_no_campaign_can_call_again(plane: Plane) -> None:
    spring = await called(plane)
    autumn = await support.campaign(plane.db, leads=[CALLER], tenant=TENANT, name="autumn")
    await Agents(plane.db, TENANT).apply("front-desk", TEMPLATE)
    lease = await answer(plane, "in-1", to=support.OWN)
    assert lease is not None
    keeper = OptOutKeeper(plane.db, plane.live)
    heard = HeardOptOut(lease.tenant_id, lease.call_id, lease.callee_number, "key", "9", datetime.now(UTC))
    await keeper.write(heard)
    assert await DoNotCall(plane.db, TENANT).contains(CALLER)
    leads = Leads(plane.db, TENANT)
    for row in (spring, autumn):
        (lead,), _ = await leads.list(row.id, limit=9, number=CALLER)
        assert lead.state == "barred"
        later = datetime.now(UTC) + timedelta(days=30)
        assert (await support.claim(plane.db, row, now=later)).leads == ()
    call = await Calls(plane.db, TENANT).get(lease.call_id)
    assert call is not None and call.opted_out_at is not None


async def test_who_calls_the_shared_number_back_reaches_the_tenant_that_called_last(plane: Plane) -> None:
    await called(plane, own=FROM)
    row = await called(plane, tenant="globex", name="autumn", own=FROM)
    lease = await answer(plane, "in-1", to=FROM)
    assert lease is not None and (lease.tenant_id, lease.agent.name) == ("globex", "front-desk")
    await OptOutKeeper(plane.db, plane.live).write(
        HeardOptOut(lease.tenant_id, lease.call_id, lease.callee_number, "key", "9", datetime.now(UTC))
    )
    assert await DoNotCall(plane.db, "globex").contains(CALLER)
    assert (await support.lead_of(plane.db, row, CALLER)).state == "barred"
    mine = (await plane.http.get("/api/v1/calls", headers=plane.auth)).json()["items"]
    assert [call["direction"] for call in mine] == ["outbound"]
    # Another tenant calls meanwhile: the events of the call still find it.
    await called(plane, name="winter", own=FROM)
    over = {"uuid": "in-1", "status": "completed", "to": FROM[1:], "from": CALLER[1:], "direction": "inbound"}
    assert (await send(plane, "/webhooks/vonage/event", over)).status_code == 200
    call = await Calls(plane.db, "globex").get(lease.call_id)
    assert call is not None and (call.status, call.outcome) == ("completed", "opted_out")


async def test_owning_the_shared_number_is_not_owning_who_was_called_from_it(plane: Plane) -> None:
    await Numbers(plane.db, TENANT).put(FROM)
    await called(plane, tenant="globex", own=FROM)
    lease, stranger = [await answer(plane, f"in-{who}", to=FROM, caller=who) for who in (CALLER, support.number(9))]
    assert lease is not None and lease.tenant_id == "globex"
    assert stranger is not None and stranger.tenant_id == TENANT


async def test_a_tenant_without_a_default_agent_answers_with_the_one_that_called(plane: Plane) -> None:
    await Agents(plane.db, "globex").apply("sales-desk", AGENT | {"name": "sales-desk"})
    call, attempt = await outbound(plane.db, "globex", CALLER, from_number=FROM, agent_name="sales-desk")
    assert await support.send(plane.db, attempt.id, "globex")
    await support.end(plane.db, call.id, "not_answered", tenant="globex")
    lease = await answer(plane, "in-1", to=FROM)
    assert lease is not None and (lease.tenant_id, lease.agent.name) == ("globex", "sales-desk")
