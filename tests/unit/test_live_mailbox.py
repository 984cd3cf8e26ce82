"""Commands to a live call: acknowledged, at most once, never after their deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serve_app.store.live import LiveState, Mailroom

pytest_plugins = ("tests.unit.store_fixtures",)


@asynccontextmanager
async def running(live: LiveState) -> AsyncIterator[Mailroom]:
    room = Mailroom(live)
    task = asyncio.create_task(room.run())
    try:
        yield room
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Session:
    """Counts what reaches a call."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []

    async def handle(self, command: dict[str, Any]) -> dict[str, Any]:
        self.commands.append(command)
        return {"ok": True, "echo": command["n"]}


async def test_each_command_reaches_its_call_and_is_answered(live: LiveState) -> None:
    sessions = {f"c{n}": Session() for n in range(5)}
    async with running(live) as room:
        for call_id, session in sessions.items():
            room.add(call_id, session.handle)
        posts = [live.post_command(f"c{n % 5}", {"n": n}, 5) for n in range(25)]
        answers = await asyncio.gather(*posts)
    assert [answer["echo"] for answer in answers] == list(range(25))
    for index, session in enumerate(sessions.values()):
        assert sorted(command["n"] for command in session.commands) == list(range(index, 25, 5))


async def test_a_call_that_is_added_while_the_room_waits_is_served_at_once(live: LiveState) -> None:
    session = Session()
    async with running(live) as room:
        await asyncio.sleep(0.1)  # the blocking read has begun, without this call
        room.add("c", session.handle)
        assert await live.post_command("c", {"n": 1}, 2) == {"ok": True, "echo": 1}
        room.remove("c")
        with pytest.raises(TimeoutError):
            await live.post_command("c", {"n": 2}, 0.2)
    assert len(session.commands) == 1


async def test_a_command_posted_before_the_call_attached_is_executed(live: LiveState) -> None:
    session = Session()
    async with running(live) as room:
        post = asyncio.create_task(live.post_command("c", {"n": 1}, 5))
        await asyncio.sleep(0.1)
        room.add("c", session.handle)
        assert (await post)["ok"]


async def test_an_expired_command_is_never_executed(live: LiveState) -> None:
    session = Session()
    with pytest.raises(TimeoutError, match="c did not answer"):
        await live.post_command("c", {"n": 1}, 0.1)
    async with running(live) as room:
        room.add("c", session.handle)
        assert (await live.post_command("c", {"n": 2}, 5))["echo"] == 2
    assert [command["n"] for command in session.commands] == [2]


async def test_two_rooms_execute_a_command_once(live: LiveState, redis_url: str) -> None:
    """A session that was replaced may still read; the command is not done twice."""
    session = Session()
    other = await LiveState.connect(redis_url)
    async with running(live) as first, running(other) as second:
        first.add("c", session.handle)
        second.add("c", session.handle)
        answers = await asyncio.gather(*(live.post_command("c", {"n": n}, 5) for n in range(20)))
    assert len(answers) == len(session.commands) == 20
    await other.aclose()


async def test_a_handler_that_is_too_slow_is_stopped_and_says_so(live: LiveState) -> None:
    stopped = asyncio.Event()

    async def slow(command: dict[str, Any]) -> dict[str, Any]:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        return {}

    async with running(live) as room:
        room.add("c", slow)
        try:
            answer = await live.post_command("c", {}, 0.3)
        except TimeoutError:
            answer = {"ok": False}
        assert answer["ok"] is False
        await asyncio.wait_for(stopped.wait(), 30)


async def test_a_faulty_handler_does_not_stop_the_others(live: LiveState) -> None:
    session = Session()

    async def faulty(command: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("bug")

    async with running(live) as room:
        room.add("bad", faulty)
        room.add("good", session.handle)
        with pytest.raises(TimeoutError):
            await live.post_command("bad", {}, 0.3)
        assert (await live.post_command("good", {"n": 1}, 5))["ok"]


async def test_the_room_survives_a_flush_and_lost_connections(live: LiveState) -> None:
    session = Session()
    async with running(live) as room:
        room.add("c", session.handle)
        assert (await live.post_command("c", {"n": 1}, 5))["ok"]
        await live.client.flushall()
        assert (await live.post_command("c", {"n": 2}, 5))["ok"]
        await live.client.client_kill_filter(_type="normal", skipme=True)
        for _ in range(3):
            try:
                answer = await live.post_command("c", {"n": 3}, 3)
                break
            except Exception:
                await asyncio.sleep(0.2)
        assert answer["ok"]
