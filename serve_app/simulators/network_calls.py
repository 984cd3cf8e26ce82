"""One call of the simulated network, from `started` to its end."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from datetime import UTC, datetime
from typing import Any

import jwt
import structlog

from serve_app.simulators.callee_actor import Scripts, on_the_line
from serve_app.simulators.leg import CLOSE_TIMEOUT_S, LegConnectFailed, LegOptions, MediaEndpoint, MediaLeg
from serve_app.simulators.network_config import NetworkConfig
from serve_app.simulators.network_ncco import BadNcco, Connect, Talk, read_ncco
from serve_app.simulators.network_state import RATE_PER_MINUTE, SimCall, timestamp
from serve_app.simulators.network_webhooks import CallEvents, Reply, WebhookSender

log = structlog.get_logger(__name__)

# Statuses with which a call can end before it is answered; all but `rejected` are followed by `completed`.
_DETAIL = {"busy": None, "unanswered": "unavailable", "rejected": "restricted", "failed": "cannot_route"}
_MAX_NCCOS = 5
_USUAL_RATE_HZ = 16000


class CallLife:
    """Runs one call. `run` ends when the call is over and its webhooks are delivered."""

    def __init__(
        self,
        call: SimCall,
        config: NetworkConfig,
        speed: float,
        sender: WebhookSender,
        events: CallEvents,
        scripts: Scripts | None,
    ) -> None:
        """`speed`: how much faster than real time it rings."""
        self.call = call
        self._config = config
        self._speed = speed
        self._sender = sender
        self._events = events
        self._scripts = scripts

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._events.run())
                try:
                    await self._live()
                finally:
                    self._events.finish()
        except Exception:
            # The root of the call: the simulator goes on, and the control API shows what happened.
            log.exception("simulated call failed", uuid=self.call.uuid)
            self.call.problem = self.call.problem or "internal error of the simulator"
            self.call.ended_at = self.call.ended_at or datetime.now(UTC)

    async def _live(self) -> None:
        call = self.call
        self._emit("started")
        await call.callee.prepare(_USUAL_RATE_HZ)
        if call.request.direction == "inbound":
            self._emit("ringing")
            await self._talk_until_over()
            return
        if not await self._wait(self._config.ringing_after_ms / 1000):
            self._finish("cancelled")
            return
        self._emit("ringing")
        outcome = await self._ring()
        if outcome == "answered":
            await self._talk_until_over()
        else:
            self._finish(outcome)

    async def _ring(self) -> str:
        """Ring as the callee behaves; the status that it ends in."""
        behaviour, limit_s = self.call.callee.behaviour, float(self.call.request.ringing_timer_s)
        rings_s = limit_s if behaviour.outcome == "no_answer" else behaviour.answer_after_ms / 1000
        if not await self._wait(min(rings_s, limit_s) / self._speed):
            return "cancelled"
        if rings_s >= limit_s:
            return "timeout"
        return "answered" if behaviour.outcome in ("answer", "voicemail") else behaviour.outcome

    async def _talk_until_over(self) -> None:
        """The answered call, until the NCCO ends, somebody hangs up, or `length_timer` does."""
        call = self.call
        if call.request.direction == "outbound":
            self._answered()
        asking = asyncio.create_task(call.hang_up.wait())
        talking = asyncio.create_task(self._converse())
        try:
            await asyncio.wait(
                {asking, talking}, timeout=call.request.length_timer_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not talking.done():
                call.disconnected_by = "platform"
                if call.media is not None:
                    call.media.close()
                await asyncio.wait({talking}, timeout=CLOSE_TIMEOUT_S + 1 if call.media is not None else 0)
        finally:
            for task in (asking, talking):
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await talking
        self._finish("completed" if call.answered_at is not None else "failed")

    def _answered(self) -> None:
        self.call.answered_at = datetime.now(UTC)
        # Documented as present and empty.
        self._emit("answered", start_time=None, rate=None, network=None)
        if self.call.request.machine_detection is None:
            return
        if self.call.callee.behaviour.outcome != "voicemail":
            self._detected("human")
            return
        self._detected("machine")
        if self.call.request.ends_at_machine:
            self.call.hang_up.set()
            return
        if self.call.request.machine_detection == "advanced":
            self.call.callee.on_beep = lambda: self._detected("machine", sub_state="beep_start")

    def _detected(self, what: str, **extra: str) -> None:
        # Documented quirk: `call_uuid` instead of `uuid`, and no direction.
        document = self._document(what) | extra
        document["call_uuid"] = document.pop("uuid")
        document.pop("direction")
        self._events.put(self.call.request.event_url, document)

    async def _converse(self) -> None:
        call = self.call
        actions: object = call.request.ncco
        if actions is None:
            reply = await self._fetch()
            if reply is None or reply.code != 200:
                call.problem = f"no NCCO (answer webhook: {'no answer' if reply is None else reply.code})"
                call.refused_status = None if reply is None else reply.code
                return
            actions = reply.body
        for _ in range(_MAX_NCCOS):
            try:
                ncco = read_ncco(actions)
            except BadNcco as error:
                call.problem = str(error)
                self._events.put(
                    call.request.event_url,
                    {
                        "reason": f"Syntax error in NCCO. {error}",
                        "conversation_uuid": call.conversation_uuid,
                        "timestamp": timestamp(),
                    },
                )
                return
            if call.answered_at is None:
                self._answered()
            following = await self._perform(ncco)
            if following is None:
                return
            actions = following

    async def _fetch(self) -> Reply | None:
        request, call = self.call.request, self.call
        if request.answer_url is None:
            return None
        parameters = {
            "to": request.to_number,
            "from": request.from_number,
            "uuid": call.uuid,
            "conversation_uuid": call.conversation_uuid,
            "endpoint_type": "phone",
        }
        if request.region_url is not None:
            parameters["region_url"] = request.region_url
        return await self._sender.answer(request.answer_url, request.answer_method, parameters)

    async def _perform(self, ncco: list[Talk | Connect]) -> bytes | None:
        """Run the actions; another NCCO where the platform answered the socket's end with one.

        What follows a websocket `connect` runs as soon as the socket is up, not when it ends (seen live by others).
        """
        legs: list[asyncio.Task[bytes | None]] = []
        async with asyncio.TaskGroup() as group:
            for action in ncco:
                if isinstance(action, Talk):
                    self.call.talk_texts.append(action.text)
                    await asyncio.sleep(len(action.text) * self._config.talk_ms_per_char / 1000)
                else:
                    legs.append(group.create_task(self._connect(action)))
        return legs[0].result() if legs else None

    async def _connect(self, action: Connect) -> bytes | None:
        call, leg_uuid = self.call, str(uuid.uuid4())
        leg = MediaLeg(
            MediaEndpoint(action.uri, action.sample_rate_hz, action.headers, self._authorization(action)),
            LegOptions(
                keep_audio=self._config.keep_audio,
                timeline=self._config.timeline,
                fire_dropped_notifies=self._config.fire_dropped_notifies,
            ),
        )
        call.media, call.media_uuid = leg, leg_uuid
        url = action.event_url or call.request.event_url

        def emit(status: str, **extra: Any) -> asyncio.Future[Reply | None]:
            document = self._document(status) | {"uuid": leg_uuid, "to": action.uri, "direction": "outbound"}
            return self._events.put(url, document | {"headers": dict(action.headers)} | extra)

        def up() -> str | None:
            emit("answered", start_time=None, rate=None, network=None)
            return call.call_id

        def hang_up() -> None:
            if not call.hang_up.is_set():
                call.callee_hangs_up()

        emit("started")
        try:
            await on_the_line(leg, call.callee, up=up, hang_up=hang_up)
        except LegConnectFailed as error:
            call.problem, call.refused_status = str(error), error.status
            answer = emit("failed" if error.status is not None else "unanswered", reason=str(error))
        else:
            if leg.stats.end == "near_closed":
                emit("completed", duration=str(round(leg.tick / 50)), disconnected_by=call.disconnected_by)
                return None
            # The platform closed the socket (or lost it) without hanging up.
            call.disconnected_by = "platform"
            answer = emit("disconnected")
        if not action.synchronous:
            return None
        reply = await asyncio.wait_for(answer, 2 * self._config.event_timeout_s + 1)
        return reply.body if reply is not None and reply.code == 200 and reply.body.strip().startswith(b"[") else None

    def _authorization(self, action: Connect) -> str | None:
        if action.authorization_type == "custom":
            return action.authorization_value
        if action.authorization_type == "vonage":
            claims = {"iat": int(datetime.now(UTC).timestamp()), "jti": str(uuid.uuid4()), "iss": "Vonage",
                      "api_key": self._config.api_key, "application_id": self._config.application_id}  # fmt: skip
            return f"Bearer {jwt.encode(claims, self._config.signature_secret, algorithm='HS256')}"
        return None

    async def _wait(self, seconds: float) -> bool:
        """False when the platform hung up meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                await self.call.hang_up.wait()
        except TimeoutError:
            return True
        self.call.disconnected_by = "platform"
        return False

    def _finish(self, status: str) -> None:
        call = self.call
        call.ended_at = datetime.now(UTC)
        call.disconnected_by = call.disconnected_by or ("user" if status == "completed" else "platform")
        if status != "completed":
            detail = call.callee.behaviour.detail or _DETAIL.get(status)
            self._emit(status, **({} if detail is None else {"detail": detail}))
        if status == "rejected":
            return
        final = self._document("completed") | {
            "start_time": None if call.answered_at is None else timestamp(call.answered_at),
            "end_time": timestamp(call.ended_at),
            "duration": str(call.duration_s),
            "rate": f"{RATE_PER_MINUTE:.8f}",
            "price": f"{RATE_PER_MINUTE * call.duration_s / 60:.8f}",
            "network": "23410",
            "disconnected_by": call.disconnected_by,
        }
        if status == "completed":
            call.status = status
        call.statuses.append("completed")
        self._events.put(call.request.event_url, final)

    def _emit(self, status: str, **extra: Any) -> None:
        self.call.status = status
        self.call.statuses.append(status)
        self._events.put(self.call.request.event_url, self._document(status) | extra)

    def _document(self, status: str) -> dict[str, Any]:
        call = self.call
        return {
            "from": call.request.from_number,
            "to": call.request.to_number,
            "uuid": call.uuid,
            "conversation_uuid": call.conversation_uuid,
            "status": status,
            "direction": call.request.direction,
            "timestamp": timestamp(),
        }
