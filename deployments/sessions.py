"""CallSessions: N calls per replica, each one isolated object with its own task group.

`run_call` is a lease: it streams control events and stays open as long as the call, so that Serve's routing, limits,
autoscaling and draining all count one call as one ongoing request. The call's bytes arrive over the media link.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
import structlog
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.call_beats import CallBeats
from deployments.config import AppArgs
from deployments.draining import shutdown_began
from deployments.handles import ready_handle
from deployments.link.server import LinkServer, ServerChannel
from deployments.names import CONTROL_APP, DIALER, WORKERS
from deployments.priority import prefer_calls
from deployments.runtime import Runtime, open_runtime
from deployments.slot_offer import SessionTunables, SlotOffer, check_calls_per_replica
from serve_app import garbage
from serve_app.clock import SystemClock
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.lines import LineCache, line_keys, request_in
from serve_app.conversation.session import CallSession
from serve_app.conversation.speculation import Speculation
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.dialing.settling import settle_lead
from serve_app.errors import UnavailableError
from serve_app.providers.base import Providers
from serve_app.providers.registry import make_providers
from serve_app.store.mailroom import Mailroom
from serve_app.telephony.base import Leg
from serve_app.telephony.vonage.wire import VonageLeg
from serve_app.tracing import configure_tracing

BEAT_S = 1.0
WAKE_TIMEOUT_S = 2.0
# Where the replica's own shutdown cannot be seen (`draining.shutdown_began`): the controller checks the health of
# running replicas only, so when the checks cease, this one is draining.
DRAINING_AFTER_S = 12.0

log = structlog.get_logger()


@serve.deployment(name="CallSessions")
class CallSessions:
    """The session process."""

    async def __init__(self, args: AppArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        self._runtime: Runtime = await open_runtime(args, "sessions")
        settings = self._runtime.settings
        configure_tracing(self._runtime.owner)
        self._providers: Providers = make_providers(settings)
        self._journal = SqlJournal(self._runtime.db, self._runtime.live, verdict=settle_lead)
        self._mailroom = Mailroom(self._runtime.live)
        self._node_id = ray.get_runtime_context().get_node_id()
        self._replica = serve.get_replica_context().replica_id.unique_id
        self._link = LinkServer(settings.link, node_ip=ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        await self._link.start()
        self._lines = LineCache(self._runtime.objects)
        self._speculation = Speculation(settings.call.speculation)
        self._told = [ready_handle(name, CONTROL_APP) for name in (WORKERS, DIALER)]
        self._offer = SlotOffer(self._replica, self._runtime.live, SessionTunables())
        self._offer.lag.start()
        self._last_check = time.monotonic()
        self._configured = asyncio.Event()
        self._waking: set[asyncio.Task[None]] = set()
        self._beats = CallBeats(self._runtime.live, self._replica)
        self._background = [
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._beats.run()),
            asyncio.create_task(self._mailroom.run()),
        ]
        garbage.settle()
        prefer_calls()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Raises SettingsError for numbers that contradict each other, before the replica takes its first call."""
        tunables = SessionTunables.model_validate(user_config)
        if not self._configured.is_set():
            # A later change comes together with Serve's own number, which Serve shows us only after this.
            check_calls_per_replica(tunables.max_calls, _max_ongoing_requests())
        self._offer.tunables = tunables
        self._configured.set()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For `deployments.autoscaling.session_policy`, every second."""
        return self._offer.stats()

    async def check_health(self) -> None:
        self._last_check = time.monotonic()
        for task in self._background:
            if task.done():
                raise RuntimeError(f"a background task of the session process ended: {task}")

    async def run_call(self, lease: dict[str, Any], ingress_node_id: str) -> AsyncIterator[dict[str, Any]]:
        """Hold a session for one call. The first item tells where its bytes go; the last, how it ended."""
        call = CallLease.model_validate(lease)
        settings = self._runtime.settings
        channel = self._link.invite(call.call_id, call.epoch)
        self._offer.calls += 1
        # While the media socket attaches: the opening must be there when it is.
        self._fetch_lines(call)
        try:
            address = await self._link.address(same_node=ingress_node_id == self._node_id)
            yield {
                "type": "session",
                "address": address.model_dump(),
                "token": channel.token,
                "proof": channel.proof,
                "epoch": call.epoch,
                "replica": self._replica,
            }
            try:
                await channel.attached(settings.link.attach_timeout_s)
            except TimeoutError:
                log.warning("no media for a leased session", call_id=call.call_id)
                yield {"type": "ended", "outcome": "media_failure"}
                return
            result = await self._converse(call, channel)
            yield {"type": "ended", "outcome": result.outcome, "duration_s": result.duration_s}
        finally:
            self._offer.calls -= 1
            self._link.withdraw(channel)
            channel.close("the session ended")

    async def _converse(self, call: CallLease, channel: ServerChannel) -> CallResult:
        settings = self._runtime.settings
        session = CallSession(
            lease=call,
            leg=self._leg(call),
            port=channel,
            providers=self._providers,
            journal=self._journal,
            parts=self._runtime.objects,
            control=self._runtime.vonage,
            settings=settings.call,
            clock=SystemClock(),
            lines=self._lines,
            speculation=self._speculation,
        )
        self._mailroom.add(call.call_id, session.command)
        self._beats.hold(call, session.command)
        try:
            with self._runtime.vitals.call(session):
                channel.bind(session)
                return await session.run()
        finally:
            self._mailroom.remove(call.call_id)
            await self._let_go(call)

    def _fetch_lines(self, call: CallLease) -> None:
        request = request_in(call.agent.language, call.agent, self._leg(call).audio, call.call_id)
        self._lines.begin_loading(call.tenant_id, line_keys(call.agent, self._providers.tts.clients[0], request))

    def _leg(self, call: CallLease) -> Leg:
        return VonageLeg(self._runtime.settings.telephony.vonage.sample_rate_hz)

    async def _let_go(self, call: CallLease) -> None:
        await self._beats.let_go(call)
        # The slot is free now, so the lease must end at once: the next call may be on its way to this replica.
        for deployment in self._told:
            waking = asyncio.create_task(_wake(deployment))
            self._waking.add(waking)
            waking.add_done_callback(self._waking.discard)

    def _draining(self) -> bool:
        return shutdown_began() or time.monotonic() - self._last_check > DRAINING_AFTER_S

    async def _beat(self) -> None:
        """Offer this replica's slots: once it drains, only those that its calls hold."""
        with contextlib.suppress(TimeoutError):
            # Serve hands over `user_config` after `__init__`: slots beyond it must not be offered even for a moment.
            await asyncio.wait_for(self._configured.wait(), timeout=BEAT_S)
        while True:
            try:
                await self._offer.beat(draining=self._draining())
            except UnavailableError as error:
                log.warning("Redis does not take the heartbeat", error=str(error))
            except Exception:  # the root of the replica's beat: were it to end, the replica and its calls would
                log.exception("Redis does not take the heartbeat")
            await asyncio.sleep(BEAT_S)


async def _wake(deployment: DeploymentHandle[Any]) -> None:
    """The workers mix the recording, the dialer may place the next call. All is in SQL; this only makes it sooner."""
    with contextlib.suppress(RayError, RayServeException, TimeoutError):
        await asyncio.wait_for(deployment.wake.remote(), timeout=WAKE_TIMEOUT_S)


def _max_ongoing_requests() -> int:
    # Serve has no public way to read a replica's own limit (2.60).
    return int(serve.get_replica_context()._deployment_config.max_ongoing_requests)
