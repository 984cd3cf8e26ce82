"""The Voice API calls that Parley makes: create, hang up, look up.

Not the SDK's HTTP client: `vonage` 4.9 is synchronous, waits without limit, and re-sends a create-call POST up to ten
times when the server drops the connection (measured). Its JWT and its request models are used.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
from vonage_jwt import JwtClient
from vonage_voice.models.common import Phone
from vonage_voice.models.requests import CreateCallRequest, ToPhone

from serve_app.errors import ProviderError
from serve_app.settings import VonageSettings
from serve_app.telephony.vonage.keys import load_private_key
from serve_app.telephony.vonage.numbers import to_wire
from serve_app.telephony.vonage.snapshot import CallSnapshot, read_snapshot

_PAGE_SIZE = 100  # the API's maximum
_MAX_PAGES = 50
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_REGION_HOST = re.compile(r"[a-z0-9.-]+\.(?:nexmo|vonage)\.com", re.ASCII)
_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)


class NotPlaced(ProviderError):  # noqa: N818 - an outcome that callers match on
    """The call was certainly not placed. `retryable`: throttled, or refused before a byte was sent."""

    def __init__(
        self, message: str, *, retryable: bool, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__("telephony", "vonage", message, retryable=retryable, status=status)
        self.retry_after_s = retry_after_s


class NoSuchNumber(NotPlaced):
    """Refused for the number that was to be called, and for nothing else."""


class OutcomeUnknown(ProviderError):  # noqa: N818
    """The call may have been placed. Never retry: wait for its webhooks, or look it up."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__("telephony", "vonage", message, retryable=False, status=status)


@dataclass(frozen=True, slots=True)
class PlacedCall:
    uuid: str
    conversation_uuid: str | None
    status: str


class VonageClient:
    """One client per process; safe for concurrent use. Implements `telephony.base.CallControl`.

    Every method makes each request once, ends within `request_timeout_s` per request, and raises only ProviderError
    (ValueError for arguments that no request can be made of). The constructor raises SettingsError for a bad key.
    """

    def __init__(self, settings: VonageSettings, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._application_id, key = load_private_key(settings)
        self._jwt = JwtClient(self._application_id, key)
        self._base_url = settings.base_url.rstrip("/")
        self._timeout_s = settings.request_timeout_s
        self._http = httpx.AsyncClient(
            transport=transport,
            timeout=httpx.Timeout(settings.request_timeout_s, connect=min(4.0, settings.request_timeout_s)),
            limits=httpx.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=10),
            follow_redirects=False,  # a redirect would carry the token elsewhere
            trust_env=urlsplit(self._base_url).hostname not in _LOOPBACK,  # no proxy in front of a simulator
        )

    async def create_call(
        self,
        to: str,
        from_: str,
        *,
        event_url: str,
        answer_url: str | None = None,
        ncco: Sequence[Mapping[str, object]] | None = None,
        ringing_timer: int | None = None,
        length_timer: int | None = None,
        on_machine: Literal["continue", "hangup"] | None = None,
    ) -> PlacedCall:
        """Place a call by exactly one POST. Give `answer_url` or `ncco`; both webhooks come by POST.

        `to`, `from_`: E.164 with `+`; timers in seconds. `on_machine` None: nobody listens for a
        machine; else `human` and `machine` events come. Raises NotPlaced, OutcomeUnknown, or ValueError.
        """
        body = _create_body(to, from_, event_url, answer_url, ncco, ringing_timer, length_timer, on_machine)
        try:
            response = await self._request("POST", f"{self._base_url}/v1/calls", json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError) as error:
            raise NotPlaced(f"no connection ({type(error).__name__})", retryable=True) from error
        except (httpx.HTTPError, TimeoutError) as error:
            raise OutcomeUnknown(f"no answer to the create-call request ({type(error).__name__})") from error
        return _placed(response)

    async def hang_up(self, carrier_call_id: str, *, region_url: str | None = None) -> None:
        """End the call. One that is over, or that Vonage does not know (any more), is not an error."""
        response = await self._checked(
            "PUT", self._call_url(carrier_call_id, region_url), json={"action": "hangup"}, tolerated=(400, 404, 409)
        )
        if response.status_code in (400, 409):
            # Which status an ended call answers with is not documented: ask for its state.
            call = await self.get_call(carrier_call_id, region_url=region_url)
            if call is not None and not call.over:
                raise _failed(response)

    async def get_call(self, uuid: str, *, region_url: str | None = None) -> CallSnapshot | None:
        """The call's state; None where Vonage does not know it (it keeps calls for two days)."""
        response = await self._checked("GET", self._call_url(uuid, region_url), tolerated=(404,))
        if response.status_code == 404:
            return None
        snapshot = read_snapshot(_json_object(response))
        if snapshot is None:
            raise ProviderError("telephony", "vonage", "call without uuid or status", retryable=True)
        return snapshot

    async def list_calls(
        self, date_start: datetime, date_end: datetime, turn: Callable[[], Awaitable[None]] | None = None
    ) -> list[CallSnapshot]:
        """All calls that started within the span (aware datetimes), oldest first. The API cannot filter by number.

        A page is a request: `turn` is awaited before each, for the account's limit of them.
        """
        calls: list[CallSnapshot] = []
        for page in range(_MAX_PAGES):
            if turn is not None:
                await turn()
            parameters = {
                "date_start": _api_time(date_start),
                "date_end": _api_time(date_end),
                "page_size": str(_PAGE_SIZE),
                "record_index": str(page * _PAGE_SIZE),
                "order": "asc",
            }
            response = await self._checked("GET", f"{self._base_url}/v1/calls", params=parameters)
            document = _json_object(response)
            embedded = document.get("_embedded")
            found = embedded.get("calls") if isinstance(embedded, dict) else None
            if not isinstance(found, list):
                raise ProviderError("telephony", "vonage", "call list without calls", retryable=True)
            calls += [call for item in found if isinstance(item, dict) and (call := read_snapshot(item)) is not None]
            if len(found) < _PAGE_SIZE:
                return calls
        raise ProviderError("telephony", "vonage", "too many calls in the span; ask for a shorter one", retryable=False)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _checked(
        self, method: str, url: str, *, tolerated: tuple[int, ...] = (), **request: Any
    ) -> httpx.Response:
        try:
            response = await self._request(method, url, **request)
        except (httpx.HTTPError, TimeoutError) as error:
            message = f"{method} got no answer ({type(error).__name__})"
            raise ProviderError("telephony", "vonage", message, retryable=True) from error
        if not response.is_success and response.status_code not in tolerated:
            raise _failed(response)
        return response

    async def _request(self, method: str, url: str, **request: Any) -> httpx.Response:
        token = self._jwt.generate_application_jwt().decode("ascii")
        # httpx's limits are per read: the deadline bounds an answer that trickles.
        async with asyncio.timeout(self._timeout_s):
            return await self._http.request(method, url, headers={"Authorization": f"Bearer {token}"}, **request)

    def _call_url(self, uuid: str, region_url: str | None) -> str:
        if not _CALL_ID.fullmatch(uuid):
            raise ProviderError("telephony", "vonage", "not a call uuid", retryable=False)
        return f"{region_base(region_url, self._base_url)}/v1/calls/{quote(uuid, safe='')}"


def region_base(region_url: str | None, base_url: str) -> str:
    """Where to send requests about a call: its region if that is Vonage's (or `base_url`'s own host), else `base_url`.

    The URL came in a webhook and gets our token: anything else is ignored.
    """
    base = base_url.rstrip("/")
    if not region_url:
        return base
    try:
        region, own = urlsplit(region_url), urlsplit(base)
        port = region.port
    except ValueError:
        return base
    if region.username is not None or region.password is not None or region.hostname is None:
        return base
    if (region.scheme, region.hostname, port) == (own.scheme, own.hostname, own.port):
        return base
    if region.scheme == "https" and port in (None, 443) and _REGION_HOST.fullmatch(region.hostname):
        return f"https://{region.hostname}"
    return base


def _create_body(
    to: str,
    from_: str,
    event_url: str,
    answer_url: str | None,
    ncco: Sequence[Mapping[str, object]] | None,
    ringing_timer: int | None,
    length_timer: int | None,
    on_machine: Literal["continue", "hangup"] | None,
) -> dict[str, Any]:
    if (answer_url is None) == (ncco is None):
        raise ValueError("give either answer_url or ncco")
    # The model silently drops fields of an NCCO written as documented ("content-type"): it goes around the model.
    answer: dict[str, Any] = (
        {"ncco": []} if answer_url is None else {"answer_url": [answer_url], "answer_method": "POST"}
    )
    request = CreateCallRequest(
        to=[ToPhone(number=to_wire(to))],
        from_=Phone(number=to_wire(from_)),
        **answer,
        event_url=[event_url],
        event_method="POST",
        ringing_timer=ringing_timer,
        length_timer=length_timer,
    )
    body: dict[str, Any] = request.model_dump(by_alias=True, exclude_none=True, mode="json")
    if on_machine is not None:
        # The modes that wait for the verdict first (detect, detect_beep) would let a person listen to silence.
        body["advanced_machine_detection"] = {"behavior": on_machine, "mode": "default", "beep_timeout": 45}
    if ncco is not None:
        body["ncco"] = [dict(action) for action in ncco]
    return body


def _placed(response: httpx.Response) -> PlacedCall:
    status = response.status_code
    if status == 429:
        raise NotPlaced("throttled", retryable=True, status=429, retry_after_s=_retry_after(response))
    # 408 comes from a proxy that may have passed the request on.
    if 300 <= status < 500 and status != 408:
        kind = NoSuchNumber if status == 400 and _blames_callee(response) else NotPlaced
        raise kind(f"HTTP {status}{_title(response)}", retryable=False, status=status)
    if not response.is_success:
        raise OutcomeUnknown(f"HTTP {status} to the create-call request", status=status)
    try:
        document = _json_object(response)
    except ProviderError as error:
        raise OutcomeUnknown("placed, but the answer is unreadable", status=status) from error
    uuid = document.get("uuid")
    if not isinstance(uuid, str) or not _CALL_ID.fullmatch(uuid):
        raise OutcomeUnknown("placed, but the answer has no uuid", status=status)
    conversation = document.get("conversation_uuid")
    return PlacedCall(
        uuid, conversation if isinstance(conversation, str) else None, str(document.get("status", "started"))
    )


def _failed(response: httpx.Response) -> ProviderError:
    status = response.status_code
    message = f"HTTP {status}{_title(response)}"
    return ProviderError("telephony", "vonage", message, retryable=status in (408, 429) or status >= 500, status=status)


def _title(response: httpx.Response) -> str:
    """Vonage's short title of an error. Not its detail: that may repeat a phone number."""
    try:
        document = response.json()
    except ValueError:
        return ""
    title = (document.get("error_title") or document.get("title")) if isinstance(document, dict) else None
    return f" {title[:80]}" if isinstance(title, str) else ""


def _blames_callee(response: httpx.Response) -> bool:
    """The parameters that a 400 names (`invalid_parameters`) are the callee's and no other."""
    try:
        invalid = _json_object(response).get("invalid_parameters")
    except ProviderError:
        return False
    return bool(invalid) and isinstance(invalid, dict) and all(re.match(r"to\b", name) for name in invalid)


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 6 else None


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        document = response.json()
    except (ValueError, RecursionError) as error:
        raise ProviderError("telephony", "vonage", "answer is not JSON", retryable=True) from error
    if not isinstance(document, dict):
        raise ProviderError("telephony", "vonage", "answer is not a JSON object", retryable=True)
    return document


def _api_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
