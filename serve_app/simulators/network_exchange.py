"""The state of the simulated network: its calls, its callees, its limits."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from aiohttp import web

from serve_app.simulators.callee import CalleeBehaviour, load_behaviour
from serve_app.simulators.callee_actor import Callee
from serve_app.simulators.network_calls import CallLife
from serve_app.simulators.network_conduct import NetworkConduct
from serve_app.simulators.network_config import NetworkConfig, NetworkFaultBook, RollingLimit
from serve_app.simulators.network_state import CallRequest, SimCall
from serve_app.simulators.network_webhooks import CallEvents, WebhookSender
from serve_app.simulators.scripts import SCRIPTS


class Network:
    """The state of the network. `run` brackets its life in the application."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.conduct: NetworkConduct = config.conduct
        self.faults = NetworkFaultBook()
        self.calls: OrderedDict[str, SimCall] = OrderedDict()
        self.callees: dict[str, CalleeBehaviour] = {}
        self.creates = RollingLimit(config.calls_per_second)
        self.others = RollingLimit(config.requests_per_second)
        self.create_requests = 0
        """POST requests that arrived, whatever became of them."""
        self.throttled = 0
        """Requests that were refused with 429."""
        self._calls_to: Counter[str] = Counter()
        self.default_callee = config.default_callee or load_behaviour()
        self._tasks: set[asyncio.Task[None]] = set()
        self._sender: WebhookSender | None = None

    @property
    def sender(self) -> WebhookSender:
        if self._sender is None:
            raise RuntimeError("the network has not started")
        return self._sender

    async def run(self, app: web.Application) -> AsyncIterator[None]:
        self._sender = WebhookSender(self.config, self.faults)
        yield
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.close()

    def start_call(
        self, request: CallRequest, app: web.Application, behaviour: CalleeBehaviour | None = None
    ) -> SimCall:
        """Begin a call; its callee is who `behaviour` says, else who has the number, else who is drawn for it."""
        scripts = app.get(SCRIPTS)
        self._calls_to[request.to_number] += 1
        luck = self.conduct.luck(request.to_number, self._calls_to[request.to_number])
        behaviour = behaviour or self.callees.get(request.to_number) or luck.behaviour() or self.default_callee
        call = SimCall(request, Callee(behaviour, scripts), luck)
        self.calls[call.uuid] = call
        while len(self.calls) > self.config.keep_calls and next(iter(self.calls.values())).over:
            self.calls.popitem(last=False)
        life = CallLife(
            call, self.config, self.conduct.speed, self.sender, CallEvents(self.sender, self.faults, luck), scripts
        )
        task = asyncio.create_task(life.run(), name=f"simulated call {call.uuid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    def remembered(self, uuid: str) -> SimCall | None:
        """A call as the API knows it: not one that ended too long ago."""
        call = self.calls.get(uuid)
        return call if call is not None and not self._forgotten(call) else None

    def listed(self) -> list[SimCall]:
        """Those that the list of calls shows now, oldest first."""
        newest = datetime.now(UTC) - timedelta(milliseconds=self.conduct.list_lag_ms)
        return [call for call in self.calls.values() if call.created_at <= newest and not self._forgotten(call)]

    def _forgotten(self, call: SimCall) -> bool:
        if call.ended_at is None:
            return False
        return (datetime.now(UTC) - call.ended_at).total_seconds() * self.conduct.speed > self.conduct.remember_s

    def find(self, key: str) -> SimCall | None:
        """By uuid, or by the platform's call id."""
        found = self.calls.get(key)
        return found or next((call for call in reversed(self.calls.values()) if call.call_id == key), None)


NETWORK: web.AppKey[Network] = web.AppKey("network", Network)
