"""The state of the simulated network: its calls, its callees, its limits."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator

from aiohttp import web

from serve_app.simulators.callee import CalleeBehaviour, load_behaviour
from serve_app.simulators.callee_actor import Callee
from serve_app.simulators.network_calls import CallLife
from serve_app.simulators.network_config import NetworkConfig, NetworkFaultBook, RollingLimit
from serve_app.simulators.network_state import CallRequest, SimCall
from serve_app.simulators.network_webhooks import CallEvents, WebhookSender
from serve_app.simulators.scripts import SCRIPTS


class Network:
    """The state of the network. `run` brackets its life in the application."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.faults = NetworkFaultBook()
        self.calls: OrderedDict[str, SimCall] = OrderedDict()
        self.callees: dict[str, CalleeBehaviour] = {}
        self.creates = RollingLimit(config.calls_per_second)
        self.others = RollingLimit(config.requests_per_second)
        self.create_requests = 0
        """POST requests that arrived, whatever became of them."""
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
        """Begin a call; its callee is who `behaviour` says, else who has the number."""
        scripts = app.get(SCRIPTS)
        behaviour = behaviour or self.callees.get(request.to_number, self.default_callee)
        call = SimCall(request, Callee(behaviour, scripts))
        self.calls[call.uuid] = call
        while len(self.calls) > self.config.keep_calls and next(iter(self.calls.values())).over:
            self.calls.popitem(last=False)
        life = CallLife(call, self.config, self.sender, CallEvents(self.sender, self.faults), scripts)
        task = asyncio.create_task(life.run(), name=f"simulated call {call.uuid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return call

    def find(self, key: str) -> SimCall | None:
        """By uuid, or by the platform's call id."""
        found = self.calls.get(key)
        return found or next((call for call in reversed(self.calls.values()) if call.call_id == key), None)


NETWORK: web.AppKey[Network] = web.AppKey("network", Network)
