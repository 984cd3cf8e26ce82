"""The NCCO as the simulated network reads it: strict, so that what Vonage would refuse does not pass here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

_RATES = {f"audio/l16;rate={rate}": rate for rate in (8000, 16000, 24000)}
MAX_HEADERS_BYTES = 512


class BadNcco(Exception):  # noqa: N818 - an event of the call
    """The NCCO cannot be run; Vonage sends an `error` event and ends the call."""


@dataclass(frozen=True, slots=True)
class Talk:
    text: str


@dataclass(frozen=True, slots=True)
class Connect:
    uri: str
    sample_rate_hz: int
    headers: dict[str, Any]
    authorization_type: Literal["vonage", "custom"] | None
    authorization_value: str | None
    event_url: str | None
    synchronous: bool


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Authorization(_Document):
    type: Literal["vonage", "custom"]
    value: str | None = None


class _Websocket(_Document):
    type: Literal["websocket"]
    uri: str
    content_type: str = Field(alias="content-type")
    headers: dict[str, Any] = Field(default_factory=dict)
    authorization: _Authorization | None = None


class _TalkAction(_Document):
    action: Literal["talk"]
    text: str = Field(min_length=1, max_length=1500)
    language: str | None = None
    style: int | None = None
    premium: bool | None = None
    level: float | None = None
    loop: int | None = None
    bargeIn: bool | None = None  # noqa: N815 - the wire's name


class _ConnectAction(_Document):
    action: Literal["connect"]
    endpoint: list[_Websocket] = Field(min_length=1, max_length=1)
    from_: str | None = Field(None, alias="from")
    eventUrl: list[str] | None = None  # noqa: N815
    eventType: Literal["synchronous"] | None = None  # noqa: N815
    eventMethod: Literal["GET", "POST"] | None = None  # noqa: N815
    limit: int | None = Field(None, ge=1, le=7200)
    timeout: int | None = None


_NCCO: TypeAdapter[list[_TalkAction | _ConnectAction]] = TypeAdapter(
    Annotated[list[Annotated[_TalkAction | _ConnectAction, Field(discriminator="action")]], Field(min_length=1)]
)


def read_ncco(source: object) -> list[Talk | Connect]:
    """Validate the JSON bytes (or the parsed list) of an NCCO. Raises BadNcco."""
    try:
        document = json.loads(source) if isinstance(source, bytes) else source
        actions = _NCCO.validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadNcco(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise BadNcco("not JSON") from error
    if sum(isinstance(action, _ConnectAction) for action in actions) > 1:
        raise BadNcco("more than one connect is not simulated")
    return [Talk(action.text) if isinstance(action, _TalkAction) else _connect(action) for action in actions]


def _connect(action: _ConnectAction) -> Connect:
    endpoint = action.endpoint[0]
    rate = _RATES.get(endpoint.content_type)
    if rate is None:
        raise BadNcco(f"content-type must be one of {', '.join(_RATES)}")
    if urlsplit(endpoint.uri).scheme not in ("ws", "wss"):
        raise BadNcco("the uri of a websocket endpoint must start with wss://")
    if len(json.dumps(endpoint.headers, ensure_ascii=False).encode()) > MAX_HEADERS_BYTES:
        raise BadNcco(f"headers exceed {MAX_HEADERS_BYTES} bytes")
    authorization = endpoint.authorization
    if authorization is not None and authorization.type == "custom" and not authorization.value:
        raise BadNcco("a custom authorization needs a value")
    return Connect(
        uri=endpoint.uri,
        sample_rate_hz=rate,
        headers=endpoint.headers,
        authorization_type=None if authorization is None else authorization.type,
        authorization_value=None if authorization is None else authorization.value,
        event_url=action.eventUrl[0] if action.eventUrl else None,
        synchronous=action.eventType == "synchronous",
    )
