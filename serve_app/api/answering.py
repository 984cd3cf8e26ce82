"""The answer webhook: what the network is to do with a call that was picked up (outbound) or came in (inbound).

Fast by construction (the network waits 1 to 5 s and then drops the call): one keyed read, one or two small commits, no
request to anybody. The answer is remembered by the carrier's call id, so that a repeated question gets the same one:
the media token in it works once.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from serve_app.api.deps import ApiDeps
from serve_app.api.folding import fold_again, tenant_of
from serve_app.api.problems import ProblemError
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import CallLease, Outcome
from serve_app.conversation.variables import values_of
from serve_app.dialing.call_limits import scopes_of_answered, scopes_of_inbound
from serve_app.dialing.endings import end_without_media
from serve_app.dialing.lead_zones import zones_of
from serve_app.dialing.links import AttemptLinks, AttemptRef
from serve_app.media_address import media_uri
from serve_app.metrics import CALLS_INBOUND
from serve_app.store.callers import Callers, KnownLead
from serve_app.store.repositories import (
    AgentRow,
    Agents,
    Attempts,
    CallRow,
    Calls,
    EventContext,
    Events,
    Numbers,
    RawEvent,
)
from serve_app.telephony.vonage.ncco import connect_websocket, talk
from serve_app.telephony.vonage.webhooks import VonageEvent

NO_CAPACITY = "We are sorry, all our lines are busy at the moment. Please call again in a few minutes. Goodbye."
NO_AGENT = "We are sorry, this number is not in service at the moment. Goodbye."
NOT_EXPECTED = "We are sorry, this call cannot be connected. Goodbye."
NUMBER_CHARS = 32
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Party:
    """The call in question, who answers it, the slot that it holds or needs, and what that counts in."""

    call: CallRow
    agent: AgentRow | None
    slot_id: str
    scopes: tuple[str, ...]
    ref: AttemptRef | None
    lead: KnownLead | None

    @property
    def variables(self) -> Mapping[str, str]:
        """What the agent's texts may say of the person."""
        if self.lead is None:
            return {}
        lead = self.lead.lead
        return values_of(lead.first_name, lead.last_name, lead.custom_fields, self.lead.goal)

    @property
    def lead_zone(self) -> str | None:
        """Where the lead is for whose sake we called; of several zones that it may be in, always the same one."""
        if self.lead is None or self.ref is None:
            return None
        return zones_of(self.lead.lead)[0]


class Answering:
    """Answers for one API process."""

    def __init__(self, deps: ApiDeps, links: AttemptLinks) -> None:
        network = deps.settings.telephony.vonage
        self._deps = deps
        self._links = links
        self._network = network
        # The call may ring on a while at the far end of the network before its socket comes.
        self._token_life_s = network.ringing_timer_s + 30
        # Longer than any call lasts: a question repeated late must not mint a second token.
        self._memory_s = network.length_timer_s + 60

    async def answer(self, event: VonageEvent, ref: AttemptRef | None, raw: RawEvent) -> str:
        """The NCCO as JSON text; the question is kept as it came.

        Raises a 400 or 404 problem for a question that names no call of ours.
        """
        tenant_id = await tenant_of(self._deps, event, ref)
        events = Events(self._deps.db, tenant_id)
        if event.uuid is None:
            await events.record(raw)
            raise ProblemError(400, "malformed_webhook", "the answer webhook names no call uuid")
        key = f"{tenant_id}:{event.uuid}"
        kept = await self._deps.live.recalled_answer(key)
        if kept is not None:
            await events.record(raw)
            return kept
        party = await (self._outbound(event, ref, raw) if ref is not None else self._inbound(event, tenant_id, raw))
        if party is None or party.call.over:
            log.warning("answer_for_ended_call", carrier_call_id=event.uuid)
            return json.dumps(talk(NOT_EXPECTED))
        if party.agent is None:
            log.error("agent_missing", call_id=party.call.id, agent=party.call.agent_name)
            return await self._apologise(key, party, NO_AGENT, "failed", f"no agent named {party.call.agent_name}")
        # From here on it rings no more, and counts where answered calls do.
        if not await self._deps.live.reserve(party.slot_id, self._token_life_s, party.scopes):
            # Whom we called has been called: that counts, for caps and retries, as a call that came to nothing.
            outcome: Outcome = "no_capacity" if party.ref is None else "media_failure"
            return await self._apologise(key, party, NO_CAPACITY, outcome, "no session was free at the answer")
        return await self._connect(key, party, party.agent, event)

    async def _outbound(self, event: VonageEvent, ref: AttemptRef, raw: RawEvent) -> _Party | None:
        """The call of one of our attempts, which was picked up.

        None if the attempt is over, or belongs to another call of the network.
        """
        assert event.uuid is not None
        events = Events(self._deps.db, ref.tenant_id)
        known = await events.of_attempt(raw.dedupe_key, ref.attempt_id)
        if known is None:
            await events.record(raw)
            raise ProblemError(404, "not_found", "there is no such attempt")
        attempts = Attempts(self._deps.db, ref.tenant_id)
        if not await attempts.bind(
            ref.attempt_id, event.uuid, event.region_url, answered_at=raw.received_at, event=raw
        ):
            if known.call.over and known.call.carrier_call_id == event.uuid:
                # Its end came first: that somebody had answered is news to it all the same.
                await fold_again(self._deps, known.call, raw)
            return None
        campaign_id = None if known.attempt is None else known.attempt.campaign_id
        scopes = scopes_of_answered(self._network, ref.tenant_id, campaign_id)
        return _Party(known.call, known.agent, ref.attempt_id, scopes, ref, await self._lead_of(known))

    async def _lead_of(self, known: EventContext) -> KnownLead | None:
        attempt = known.attempt
        if attempt is None or attempt.lead_id is None:
            return None
        return await Callers(self._deps.db, attempt.tenant_id).lead(attempt.lead_id)

    async def _inbound(self, event: VonageEvent, tenant_id: str, raw: RawEvent) -> _Party:
        """A call to one of our numbers, recorded once per carrier call id.

        Who called last from the campaigns answers; else the agent of the number, else the default agent, else the one
        that called last.
        """
        assert event.uuid is not None
        caller, dialled = event.from_ or "unknown", event.to or "unknown"
        lead = await Callers(self._deps.db, tenant_id).last_called(caller, dialled)
        name, agent = await self._agent_for(tenant_id, caller, dialled, lead)
        metadata: dict[str, Any] = {}
        if lead is not None:
            metadata = {"campaign_id": lead.lead.campaign_id, "lead_id": lead.lead.id}
        calls = Calls(self._deps.db, tenant_id)
        call = await calls.create_inbound(
            carrier_call_id=event.uuid,
            from_number=caller[:NUMBER_CHARS],
            to_number=dialled[:NUMBER_CHARS],
            agent_name=name,
            agent_version=agent.version if agent is not None else 0,
            metadata=metadata,
            event=raw,
        )
        # The caller may have hung up before the question arrived here.
        if not call.over and await fold_again(self._deps, call, raw):
            call = await calls.get(call.id) or call
        return _Party(call, agent, call.id, scopes_of_inbound(self._network), None, lead)

    async def _agent_for(
        self, tenant_id: str, caller: str, dialled: str, lead: KnownLead | None
    ) -> tuple[str, AgentRow | None]:
        """The first that exists of those who may answer; the default one's name where none does."""
        settings, agents = self._deps.settings.agents, Agents(self._deps.db, tenant_id)
        if lead is not None and (found := await agents.get(lead.agent_name, lead.agent_version)) is not None:
            return found.name, found
        number = await Numbers(self._deps.db, tenant_id).get(dialled)
        if number is not None and number.agent_name is not None:
            if (found := await agents.get(number.agent_name)) is not None:
                return found.name, found
            log.error("agent_of_number_missing", agent=number.agent_name)
        name = settings.numbers.get(dialled, settings.default)
        found = await agents.get(name)
        if found is None and (last := await Callers(self._deps.db, tenant_id).last_agent(caller, dialled)) is not None:
            # The settings name agents of the platform's own tenant; this one need not have them.
            found = await agents.get(last)
        return (name, None) if found is None else (found.name, found)

    async def _connect(self, key: str, party: _Party, agent: AgentRow, event: VonageEvent) -> str:
        call, live = party.call, self._deps.live
        token = secrets.token_urlsafe(32)
        lease = CallLease(
            call_id=call.id,
            tenant_id=call.tenant_id,
            attempt_id=party.ref.attempt_id if party.ref is not None else None,
            direction="outbound" if party.ref is not None else "inbound",
            carrier_call_id=event.uuid or "",
            region_url=event.region_url,
            from_number=call.from_number,
            to_number=call.to_number,
            agent=AgentDefinition.model_validate(agent.document).for_call(party.variables, inbound=party.ref is None),
            agent_version=agent.version,
            slot_id=party.slot_id,
            scopes=party.scopes,
            lead_zone=party.lead_zone,
        )
        ours = json.dumps(self._ncco(call, token, party.ref))
        # The token first: whoever gets the answer can use it. If another request of the same question was faster,
        # this token is burnt, so that one call never has two.
        await live.put_media_token(token, lease.model_dump_json(), self._token_life_s)
        kept = await live.remember_answer(key, ours, self._memory_s)
        if kept != ours:
            await live.take_media_token(token)
            if "websocket" not in kept:
                await live.release(party.slot_id)
            return kept
        await live.publish(call.id, {"type": "status", "status": "answered"})
        if party.ref is None:
            # Only now: an inbound call that gets an apology is not answered.
            await Calls(self._deps.db, call.tenant_id).answered(call.id, self._deps.clock.now())
            CALLS_INBOUND.labels("answered").inc()
        return ours

    async def _apologise(self, key: str, party: _Party, text: str, outcome: Outcome, detail: str) -> str:
        ours = json.dumps(talk(text))
        kept = await self._deps.live.remember_answer(key, ours, self._memory_s)
        if kept != ours:
            return kept
        await end_without_media(
            self._deps.db,
            self._deps.live,
            party.call.tenant_id,
            party.call.id,
            outcome=outcome,
            detail=detail,
            slot_id=party.slot_id,
            at=self._deps.clock.now(),
        )
        if party.ref is None:
            CALLS_INBOUND.labels(outcome).inc()
        return ours

    def _ncco(self, call: CallRow, token: str, ref: AttemptRef | None) -> list[dict[str, object]]:
        uri = media_uri(self._deps.settings, call.id)
        in_path = self._network.media_auth == "path"
        # The socket's leg names no number of ours: our signature tells whose call it belongs to.
        link = ref if ref is not None else AttemptRef(call.tenant_id, call.id)
        return connect_websocket(
            f"{uri}/{token}" if in_path else uri,
            rate=self._network.sample_rate_hz,
            headers={"call_id": call.id},
            token=None if in_path else token,
            event_url=self._links.event_url(link),
        )
