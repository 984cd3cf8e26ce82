"""For which times the network is asked for its list of calls, and whose a call in it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import text, update

from serve_app.clock import SystemClock
from serve_app.dialing.looks import TOGETHER, WINDOW_AFTER, WINDOW_BEFORE
from serve_app.dialing.reconcile import AttemptReconciler
from serve_app.dialing.strays import hang_up_strays
from serve_app.errors import ProviderError
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.models import Attempt
from serve_app.store.repositories import AttemptRow, Attempts, Calls
from serve_app.telephony.vonage.rest import VonageClient
from serve_app.telephony.vonage.snapshot import CallSnapshot, read_snapshot
from tests.unit.api_support import FROM, TO, FakeVonage, make_settings

pytest_plugins = ("tests.unit.store_fixtures", "tests.unit.api_fixtures")

NOW = datetime(2026, 11, 23, 15, tzinfo=UTC)


class ListingNetwork(VonageClient):
    """Has some calls, each since a moment, and keeps what it is asked."""

    def __init__(self, calls: dict[datetime, CallSnapshot]) -> None:
        self.has = calls
        self.asked: list[tuple[datetime, datetime]] = []
        self.hung_up: list[str] = []

    async def list_calls(
        self, date_start: datetime, date_end: datetime, turn: Callable[[], Awaitable[None]] | None = None
    ) -> list[CallSnapshot]:
        self.asked.append((date_start, date_end))
        return [call for at, call in self.has.items() if date_start <= at <= date_end]

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        self.hung_up.append(carrier_call_id)


class FixedClock(SystemClock):
    def now(self) -> datetime:
        return NOW


def a_call(uuid: str, to: str = TO) -> CallSnapshot:
    numbers = {"to": {"number": to[1:]}, "from": {"number": FROM[1:]}}
    found = read_snapshot({"uuid": uuid, "status": "ringing", "direction": "outbound", **numbers})
    assert found is not None
    return found


async def attempt_of(db: Database, to: str, tenant: str = "default") -> AttemptRow:
    made = await Calls(db, tenant).create_outbound(
        to_number=to,
        from_number=FROM,
        agent_name="riverside-dental",
        agent_version=1,
        metadata={},
        give_up_at=datetime.now(UTC) + timedelta(seconds=30),
    )
    return made[1]


async def gave_up(db: Database, to: str, ago: timedelta, disposition: str = "unknown") -> None:
    attempt = await attempt_of(db, to)
    values = {"status": "ended", "disposition": disposition, "placing_at": NOW - ago, "ended_at": NOW}
    async with db.transaction() as session:
        await session.execute(update(Attempt).where(Attempt.id == attempt.id).values(values))


async def no_turn() -> None:
    pass


async def test_strays_are_looked_for_at_the_times_of_their_requests_only(db: Database) -> None:
    """Ten minutes of a busy account are more calls than one list can hold."""
    times = [timedelta(minutes=9), timedelta(minutes=9) - TOGETHER, timedelta(minutes=5), timedelta(seconds=10)]
    for n, ago in enumerate(times):
        await gave_up(db, f"+1202555010{n}", ago)
    early, late = NOW - times[1], NOW - times[3]
    network = ListingNetwork(
        {early: a_call("early", "+12025550101"), late: a_call("late", "+12025550103"), NOW: a_call("else", TO)}
    )
    assert await hang_up_strays(db, network, FixedClock(), no_turn) == 2
    assert network.hung_up == ["early", "late"]
    assert network.asked == [
        (NOW - times[0] - WINDOW_BEFORE, NOW - times[1] + WINDOW_AFTER),
        (NOW - times[2] - WINDOW_BEFORE, NOW - times[2] + WINDOW_AFTER),
        (NOW - times[3] - WINDOW_BEFORE, NOW - times[3] + WINDOW_AFTER),
    ]


async def test_one_stray_in_two_lists_is_hung_up_once(db: Database) -> None:
    for ago in (timedelta(seconds=100), timedelta(seconds=60)):
        await gave_up(db, TO, ago)
    network = ListingNetwork({NOW - timedelta(seconds=55): a_call("one")})
    assert await hang_up_strays(db, network, FixedClock(), no_turn) == 1
    assert (len(network.asked), network.hung_up) == (2, ["one"])


async def test_what_was_proven_not_placed_has_no_stray(db: Database) -> None:
    for n, disposition in enumerate(("not_placed", "not_allowed", "no_capacity")):
        await gave_up(db, f"+1202555010{n}", timedelta(minutes=1), disposition)
    network = ListingNetwork({})
    assert await hang_up_strays(db, network, FixedClock(), no_turn) == 0
    assert network.asked == []


async def test_a_call_of_another_tenant_is_not_adopted(db: Database, live: LiveState, vonage: FakeVonage) -> None:
    """Both call one person from one number; the answer to one request was lost."""
    theirs, mine = await attempt_of(db, TO, "other"), await attempt_of(db, TO)
    for tenant, attempt in (("other", theirs), ("default", mine)):
        (held,) = await Attempts(db, tenant).claim_intended("d", limit=1, lease_s=0, now=datetime.now(UTC))
        assert await Attempts(db, tenant).fence_placing(attempt.id, held.epoch)
    assert await Attempts(db, "other").placed(theirs.id, "theirs", None)
    await Attempts(db, "default").unknown(mine.id, "no answer", check_after_s=-1)
    since = datetime.now(UTC)
    network = ListingNetwork({since: a_call("theirs")})
    reconciler = AttemptReconciler(db, live, network, make_settings(vonage.url), SystemClock())
    await reconciler.sweep()
    found = await Attempts(db, "default").get(mine.id)
    assert found is not None and (found.status, found.carrier_call_id) == ("unknown", None)
    await Attempts(db, "default").unknown(mine.id, "no answer", check_after_s=-1)
    network.has[since + timedelta(seconds=1)] = a_call("mine")
    await reconciler.sweep()
    found = await Attempts(db, "default").get(mine.id)
    assert found is not None and (found.status, found.carrier_call_id) == ("placed", "mine")


class DownNetwork(VonageClient):
    """Answers for the call "gone", which it does not know, and for nothing else."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def list_calls(self, *_: object) -> list[CallSnapshot]:
        self.asked.append("list")
        raise ProviderError("telephony", "vonage", "no answer", retryable=True)

    async def get_call(self, carrier_call_id: str, *, region_url: str | None = None) -> CallSnapshot | None:
        self.asked.append(carrier_call_id)
        if carrier_call_id != "gone":
            raise ProviderError("telephony", "vonage", "no answer of this region", retryable=True)
        return None


class LaterClock(SystemClock):
    def now(self) -> datetime:
        return super().now() + timedelta(hours=1)


async def test_what_the_network_does_not_answer_keeps_nothing_else_waiting(
    db: Database, live: LiveState, vonage: FakeVonage
) -> None:
    called = {}
    for n, (tenant, carrier_call_id) in enumerate((("a", "down"), ("b", "gone"))):
        attempt = called[carrier_call_id] = await attempt_of(db, f"+1202555010{n}", tenant)
        attempts = Attempts(db, tenant)
        (held,) = await attempts.claim_intended("d", limit=1, lease_s=0, now=datetime.now(UTC))
        assert await attempts.fence_placing(attempt.id, held.epoch)
        assert await attempts.placed(attempt.id, carrier_call_id, None)
    doubtful = await attempt_of(db, "+12025550103", "c")
    (held,) = await Attempts(db, "c").claim_intended("d", limit=1, lease_s=0, now=datetime.now(UTC))
    assert await Attempts(db, "c").fence_placing(doubtful.id, held.epoch)
    await Attempts(db, "c").unknown(doubtful.id, "no answer", check_after_s=-1)
    network = DownNetwork()
    await AttemptReconciler(db, live, network, make_settings(vonage.url), LaterClock()).sweep()
    assert network.asked == ["list", "down", "gone"]
    row = await Calls(db, "b").get(called["gone"].call_id)
    assert row is not None and (row.status, row.outcome) == ("failed", "failed")
    row = await Calls(db, "a").get(called["down"].call_id)
    assert row is not None and not row.over


async def test_the_question_whose_a_call_is_reads_no_more_than_that_call(db: Database) -> None:
    explain = "EXPLAIN QUERY PLAN" if db.engine.dialect.name == "sqlite" else "EXPLAIN"
    async with db.session() as session:
        if explain == "EXPLAIN":
            await session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = str((await session.execute(text(f"{explain} SELECT id FROM calls WHERE carrier_call_id = 'x'"))).all())
    assert "ix_calls_carrier_call_id" in plan
