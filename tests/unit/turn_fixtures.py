"""A turn machine under test, and the little that a driver does: timers, and speech that is played."""

from __future__ import annotations

from typing import Any, TypeVar

from serve_app.conversation import turn_types as t
from serve_app.conversation.agent import AgentDefinition
from serve_app.conversation.turn import TurnMachine
from serve_app.errors import Stage

OPENING = "Hello, this is Ava, an AI. Does Tuesday suit you?"

Command = TypeVar("Command", bound=t.TurnCommand)


def agent_with(**changes: Any) -> AgentDefinition:
    document = {"name": "a", "business": "B", "opening": OPENING, "system_prompt": "P.", **changes}
    return AgentDefinition.model_validate(document)


class Talk:
    """Events in, commands out; those about timers are kept in `timers`."""

    def __init__(self, **changes: Any) -> None:
        self.machine = TurnMachine(agent_with(**changes))
        self.timers: dict[t.TimerName, float] = {}

    @classmethod
    def listening(cls, **changes: Any) -> Talk:
        """The opening is over."""
        talk = cls(**changes)
        talk.on(t.CallConnected())
        talk.play_out()
        return talk

    @classmethod
    def answering(cls, text: str = "It is free, and it is behind the building.", **changes: Any) -> Talk:
        """The first reply is heard, and is not over."""
        talk = cls.listening(**changes)
        talk.on(t.CalleeTurnEnded("Where can I park"))
        talk.speaks(text)
        return talk

    @property
    def state(self) -> str:
        return self.machine.state

    @property
    def generation(self) -> int:
        return self.machine.generation

    @property
    def waits(self) -> dict[str, float]:
        """The timers that are not of the whole call."""
        return {name: s for name, s in self.timers.items() if name not in ("max_duration", "duration_warning")}

    def on(self, *events: t.TurnEvent) -> list[t.TurnCommand]:
        """The commands but those about timers."""
        said: list[t.TurnCommand] = []
        for event in events:
            for command in self.machine.handle(event):
                if isinstance(command, t.SetTimer):
                    self.timers[command.name] = command.seconds
                elif isinstance(command, t.CancelTimer):
                    self.timers.pop(command.name, None)
                else:
                    said.append(command)
        return said

    def fire(self, name: t.TimerName) -> list[t.TurnCommand]:
        assert name in self.timers, f"{name} is not set"
        del self.timers[name]
        return self.on(t.TimerFired(name))

    def fails(self, stage: Stage = "llm", *, other: bool = False) -> list[t.TurnCommand]:
        return self.on(t.ReplyFailed(self.generation, stage, True, "down", other))

    def calls(self, name: str, **arguments: object) -> list[t.TurnCommand]:
        return self.on(t.ToolCalled(self.generation, name, arguments))

    def speaks(self, text: str = "") -> list[t.TurnCommand]:
        """The present generation begins to be heard."""
        said = self.on(t.ReplySentence(self.generation, text)) if text else []
        return said + self.on(t.PlayoutStarted(self.generation))

    def play_out(self, text: str = "") -> list[t.TurnCommand]:
        """The present generation is spoken to its end."""
        generation = self.generation
        return self.speaks(text) + self.on(t.ReplyFinished(generation), t.PlayoutDrained(generation))


def kinds(commands: list[t.TurnCommand]) -> list[type]:
    return [type(command) for command in commands]


def only(kind: type[Command], commands: list[t.TurnCommand]) -> Command:
    (found,) = [command for command in commands if isinstance(command, kind)]
    return found


def spoken(commands: list[t.TurnCommand]) -> str:
    """The kind of the one line that is to be spoken."""
    return only(t.SpeakLine, commands).kind


def causes(commands: list[t.TurnCommand]) -> list[str]:
    return [command.cause for command in commands if isinstance(command, t.NoteCause | t.FailOver)]
