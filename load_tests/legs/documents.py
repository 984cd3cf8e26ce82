"""What a leg worker is told, as validated documents. The protocol: `worker.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve_app.simulators.callee import BargeIn, CalleeBehaviour, HangUp, Say, Step


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SocketOpening(_Document):
    """A media socket opened at once, for systems that take a call without webhooks.

    `{call_id}` in a text of `headers` becomes the id of the call.
    """

    kind: Literal["socket"]
    uri: str
    authorization: str | None = None
    sample_rate_hz: Literal[8000, 16000, 24000] = 16000
    headers: dict[str, Any] = Field(default_factory=dict)

    def headers_for(self, call_id: str) -> dict[str, Any]:
        return {
            key: value.replace("{call_id}", call_id) if isinstance(value, str) else value
            for key, value in self.headers.items()
        }


class VonageOpening(_Document):
    """An inbound call as Vonage announces it: answer webhook, NCCO, media socket, events; all webhooks signed."""

    kind: Literal["vonage"]
    answer_url: str
    answer_method: Literal["GET", "POST"] = "GET"
    event_url: str | None = None
    to: str = Field(pattern=r"^\+?[1-9]\d{6,14}$")
    from_: str = Field(alias="from", pattern=r"^\+?[1-9]\d{6,14}$")
    api_key: str
    application_id: str
    signature_secret: str = Field(min_length=16, repr=False)


Opening = Annotated[SocketOpening | VonageOpening, Field(discriminator="kind")]


class Turn(_Document):
    """One utterance of the callee: after the agent's answer and a pause, or into the agent's words.

    `barge_in_after_ms`: it begins that long after the agent's next utterance began to play.
    """

    text: str
    after_agent_quiet_ms: int = 700
    barge_in_after_ms: int | None = None


class Script(_Document):
    """What the callee does. It hangs up when the agent was quiet for `hang_up_after_agent_quiet_ms` after its last
    turn; None: the platform has to. `announce_url`: of the simulators that are to be told the texts beforehand.
    """

    turns: tuple[Turn, ...] = ()
    hang_up_after_agent_quiet_ms: int | None = 700
    patience_ms: int = 8000
    """An agent that does not answer within this is spoken to (or hung up on) all the same."""
    max_duration_s: float = 180
    voice: str = "callee-en"
    announce_url: str | None = None

    def behaviour(self) -> CalleeBehaviour:
        steps: list[Step] = [
            Say(say=turn.text, pause_ms=turn.after_agent_quiet_ms, patience_ms=self.patience_ms)
            if turn.barge_in_after_ms is None
            else BargeIn(barge_in=turn.text, after_ms=turn.barge_in_after_ms)
            for turn in self.turns
        ]
        if self.hang_up_after_agent_quiet_ms is not None:
            pause_ms = self.hang_up_after_agent_quiet_ms
            steps.append(HangUp(hang_up=True, pause_ms=pause_ms, patience_ms=self.patience_ms))
        return CalleeBehaviour(voice=self.voice, steps=tuple(steps), max_duration_s=self.max_duration_s)


class CallOrder(_Document):
    op: Literal["call"]
    id: str
    open: Opening
    script: Script = Script()


class PrepareOrder(_Document):
    """Speak texts before the first call, so that no call waits for the voice."""

    op: Literal["prepare"]
    texts: tuple[str, ...]
    voice: str = "callee-en"
    sample_rate_hz: int = 16000


class HangUpOrder(_Document):
    op: Literal["hang_up"]
    id: str


class EndOrder(_Document):
    """Cut all calls and end the process. The end of standard input means the same."""

    op: Literal["end"]


Order = Annotated[CallOrder | PrepareOrder | HangUpOrder | EndOrder, Field(discriminator="op")]


def texts_of(script: Script) -> Sequence[str]:
    return [turn.text for turn in script.turns]
