"""The dialer has an agent's first words made before it places the agent's first call, and waits a second at most."""

from __future__ import annotations

import asyncio

from serve_app.dialing.openings import ASK_AGAIN_S, WAIT_S, AgentVersion, Openings
from serve_app.scenarios.virtual_time import LoopClock, run_virtual

AGENT = AgentVersion("t", "agent", 1)


class Workshop:
    def __init__(self, *, takes_s: float = 0.0, works: bool = True) -> None:
        self.takes_s = takes_s
        self.works = works
        self.asked: list[AgentVersion] = []

    async def __call__(self, agent: AgentVersion) -> bool:
        self.asked.append(agent)
        await asyncio.sleep(self.takes_s)
        return self.works


async def waited_s(openings: Openings, agent: AgentVersion = AGENT) -> float:
    began = asyncio.get_running_loop().time()
    openings.ask(agent)
    await openings.wait(agent)
    return round(asyncio.get_running_loop().time() - began, 6)


def test_a_version_is_asked_for_once_in_a_process() -> None:
    async def calls() -> None:
        workshop = Workshop(takes_s=0.3)
        openings = Openings(workshop, LoopClock())
        assert await asyncio.gather(*(waited_s(openings) for _ in range(4))) == [0.3] * 4
        assert await waited_s(openings) == 0
        await waited_s(openings, AGENT._replace(version=2))
        assert workshop.asked == [AGENT, AGENT._replace(version=2)]

    run_virtual(calls())


def test_no_call_waits_longer_than_a_second() -> None:
    async def calls() -> None:
        workshop = Workshop(takes_s=5)
        openings = Openings(workshop, LoopClock())
        assert await waited_s(openings) == WAIT_S
        assert await waited_s(openings) == 0, "the second call does not wait again"
        await asyncio.sleep(5)
        assert await waited_s(openings) == 0
        assert workshop.asked == [AGENT]

    run_virtual(calls())


def test_what_could_not_be_made_is_asked_for_again_later() -> None:
    async def calls() -> None:
        workshop = Workshop(works=False)
        openings = Openings(workshop, LoopClock())
        for _ in range(3):
            await waited_s(openings)
        assert len(workshop.asked) == 1
        await asyncio.sleep(ASK_AGAIN_S)
        workshop.works = True
        await waited_s(openings)
        await asyncio.sleep(ASK_AGAIN_S)
        await waited_s(openings)
        assert len(workshop.asked) == 2

    run_virtual(calls())


def test_without_a_workshop_nobody_waits() -> None:
    assert run_virtual(waited_s(Openings(None, LoopClock()))) == 0
