"""What is done per turn, per call, or beside every frame: turn machine, recorder, the documents of a call."""

from __future__ import annotations

import itertools

from load_tests.micro.figures import Figure, cpu_us
from load_tests.micro.media import FRAME, LINEAR_16K
from serve_app.clock import SystemClock
from serve_app.conversation import turn_types as t
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.lease import CallLease
from serve_app.conversation.recorder import Recorder
from serve_app.conversation.turn import TurnMachine

AGENT = AgentDefinition.model_validate(
    {
        "name": "bench",
        "business": "Riverside Dental",
        "opening": "Hello, this is Riverside Dental.",
        "system_prompt": "You are Ava, the assistant of a dental practice. " * 20,
        "knowledge": [f"Fact number {number} about the practice and its surroundings." for number in range(30)],
        "limits": {"max_turns": 200},
    }
)
"""A document of the usual size: some kilobytes."""
QUESTION = "Where can I park my car?"
LEASE = CallLease(
    call_id="0199aaaa-0000-7000-8000-000000000000",
    tenant_id="default",
    direction="inbound",
    carrier_call_id="bench",
    from_number="+12025550123",
    to_number="+12015550100",
    agent=AGENT,
    agent_version=1,
    slot_id="bench",
)


def one_turn(machine: TurnMachine, *, barge_in: bool) -> int:
    """One turn: speech, a partial per word, its end, a reply of three sentences. Returns the number of events.

    `barge_in`: the reply is not played to its end; the next turn's speech cuts it.
    """
    callee: list[t.TurnEvent] = [
        t.CalleeSpeechStarted(),
        *[t.CalleePartial(text) for text in itertools.accumulate(QUESTION.split(), "{} {}".format)],
        t.CalleeTurnEnded(QUESTION),
    ]
    for event in callee:
        machine.handle(event)
    generation = machine.generation
    agent: list[t.TurnEvent] = [t.ReplySentence(generation, "Parking is free behind the building. ")] * 3
    agent.append(t.PlayoutStarted(generation))
    if not barge_in:
        agent += [t.ReplyFinished(generation), t.PlayoutDrained(generation)]
    for event in agent:
        machine.handle(event)
    return len(callee) + len(agent)


def turn_machine() -> Figure:
    """A call of 100 turns, every other one interrupted."""
    turns = 100

    def call() -> int:
        machine = TurnMachine(AGENT)
        opening: list[t.TurnEvent] = [t.CallConnected(), t.PlayoutStarted(1), t.ReplyFinished(1), t.PlayoutDrained(1)]
        for event in opening:
            machine.handle(event)
        handled = len(opening) + sum(one_turn(machine, barge_in=turn % 2 == 0) for turn in range(turns))
        assert machine.callee_turns == turns
        return handled

    rounds = [1e6 / us for us in cpu_us(call, 5, per=call())]
    # A call makes some two events a second: 50,000 are 0.4 % of a core at 100 calls.
    return Figure("turn machine: events", 50_000, "per s", rounds, at_least=True)


class _NoStore:
    async def put(self, key: str, data: bytes) -> None:
        raise AssertionError("nothing is written in this benchmark")


def recorder() -> Figure:
    """Ten seconds of both directions, put together into parts of two seconds. Writing them is the store's cost."""
    frames = 500

    def call() -> None:
        recording = Recorder("bench", "bench", _NoStore(), part_s=2.0, clock=SystemClock())
        recording.open(LINEAR_16K, 0.0)
        for index in range(frames):
            recording.callee(FRAME, index * 0.02)
            recording.agent(FRAME, index * 0.02)

    # Beside every frame of every call: at most 5 % of the frame pair's budget.
    return Figure("recorder: one frame of each direction into parts", 5, "us", cpu_us(call, 20, per=frames))


def documents() -> Figure:
    """The lease, agent document included: what a media token holds, and what a session is given."""
    rounds = cpu_us(lambda: CallLease.model_validate_json(LEASE.model_dump_json()), 1_000)
    # Once or twice per call, on the loop that carries frames: far below the 20 ms of a frame.
    return Figure("lease with its agent: to JSON and back, validated", 500, "us", rounds)
