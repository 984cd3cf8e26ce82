"""The two questions of a claim: of its campaign and of its numbers, each one statement for the whole batch.

They are put together once: that costs SQLAlchemy more than the database takes to answer. One statement sees one state
of the database, also on PostgreSQL: a call that ends meanwhile is live or used, and never neither.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    CompoundSelect,
    Float,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
)

from serve_app.store.among import among
from serve_app.store.attempts import NEVER_ASKED
from serve_app.store.campaign_models import EVERYBODY, Consent, KillSwitch, RegistryNumber, Usage
from serve_app.store.models import ONE_LIVE, Agent, Attempt, DoNotCallEntry

TENANT = bindparam("tenant_id", type_=Text())
CAMPAIGN = bindparam("campaign_id", type_=Text())


def _word(text: str) -> Any:
    return literal_column(f"'{text}'", Text())


NONE, ZERO, NO_TIME = _word(""), literal_column("0", Integer()), literal_column("0.0", Float())
_SUMS = {"amount": "calls", "answered": "answered", "talk_s": "talk_s"}
_SUMS |= {"cost_micros": "cost_micros", "priced_talk_s": "priced_talk_s"}
_NO_USE = (ZERO, NO_TIME, ZERO, NO_TIME)


@cache
def campaign_query() -> CompoundSelect[Any, Any, Any]:
    """Rows of (what, whose, period, amount, answered, talk_s, cost_micros, priced_talk_s).

    `usage`: ended calls, `whose` mine or others', of `period` today, month (the rest of it) or before; `live`: calls
    that wait, ring or talk; `switch`: `whose` is the scope of a kill switch that is on; `agent`: `amount` is its
    version. Parameters: tenant_id, campaign_id, today, month (its first day), agent_name, agent_version (None: newest).
    """
    today, month = bindparam("today", type_=Text()), bindparam("month", type_=Text())
    used_by = case((Usage.campaign_id == CAMPAIGN, _word("mine")), else_=_word("others")).label("whose")
    period = case((Usage.day == today, _word("today")), (Usage.day >= month, _word("month")), else_=_word("before"))
    usage = (
        select(
            *(_word("usage").label("what"), used_by, period.label("period")),
            *(func.sum(getattr(Usage, column)).label(name) for name, column in _SUMS.items()),
        )
        .where(Usage.tenant_id == TENANT, or_(Usage.day >= month, Usage.campaign_id == CAMPAIGN))
        .group_by("whose", "period")
    )
    live_of = case((Attempt.campaign_id == CAMPAIGN, _word("mine")), else_=_word("others")).label("whose")
    # The literal condition of the index `one_live`: a parameter would hide it from the planner.
    live = select(_word("live"), live_of, NONE, func.count(), *_NO_USE).where(ONE_LIVE, Attempt.tenant_id == TENANT)
    covering = or_(
        and_(KillSwitch.tenant_id == TENANT, KillSwitch.scope == "tenant"),
        and_(KillSwitch.tenant_id == TENANT, KillSwitch.scope == "campaign", KillSwitch.key == CAMPAIGN),
        and_(KillSwitch.tenant_id == EVERYBODY, KillSwitch.scope == "global"),
    )
    switches = select(_word("switch"), KillSwitch.scope, NONE, ZERO, *_NO_USE)
    wanted = bindparam("agent_version", type_=Integer())
    agent = select(_word("agent"), NONE, NONE, func.max(Agent.version), *_NO_USE).where(
        Agent.tenant_id == TENANT,
        Agent.name == bindparam("agent_name", type_=Text()),
        or_(wanted.is_(None), Agent.version == wanted),
    )
    return union_all(usage, live.group_by("whose"), switches.where(covering, KillSwitch.off_at.is_(None)), agent)


@cache
def numbers_query(dialect: str) -> CompoundSelect[Any, Any, Any]:
    """Rows of (what, number, word, status, at, until, revoked_at).

    `consent`: its scope, kind and times; `listed`: on the tenant's do-not-call list; `registry`: `word` is its name;
    `off`: a kill switch for the number is on; `call`: placed, live or about to be, with its campaign and status.
    Parameters: tenant_id, numbers (`among.one_value`).
    """
    kept = {"consent": Consent.number, "listed": DoNotCallEntry.number, "registry": RegistryNumber.number}
    kept |= {"off": KillSwitch.key, "call": Attempt.to_number}
    of = {what: among(dialect, column, "numbers") for what, column in kept.items()}
    consents = select(
        _word("consent").label("what"),
        Consent.number.label("number"),
        Consent.scope.label("word"),
        Consent.kind.label("status"),
        Consent.given_at.label("at"),
        Consent.expires_at.label("until"),
        Consent.revoked_at.label("revoked_at"),
    ).where(Consent.tenant_id == TENANT, of["consent"])
    nothing = (null(), null(), null(), null())
    listed = select(_word("listed"), DoNotCallEntry.number, NONE, *nothing).where(
        DoNotCallEntry.tenant_id == TENANT, of["listed"], DoNotCallEntry.removed_at.is_(None)
    )
    registries = select(_word("registry"), RegistryNumber.number, RegistryNumber.source, *nothing).where(
        RegistryNumber.tenant_id.in_((TENANT, EVERYBODY)), of["registry"]
    )
    off = select(_word("off"), KillSwitch.key, NONE, *nothing).where(
        KillSwitch.tenant_id == TENANT, KillSwitch.scope == "number", of["off"], KillSwitch.off_at.is_(None)
    )
    placed_at = func.coalesce(Attempt.placing_at, Attempt.created_at)
    sent = and_(Attempt.placing_at.is_not(None), Attempt.disposition.not_in(NEVER_ASKED))
    calls = select(
        _word("call"), Attempt.to_number, Attempt.campaign_id, Attempt.status, placed_at, null(), null()
    ).where(Attempt.tenant_id == TENANT, of["call"], or_(Attempt.status != "ended", sent))
    return union_all(consents, listed, registries, off, calls)
