"""What a dialer needs of the rest of the platform, in one process.

The real API, the workers' reconciler of calls, and sessions that talk for a moment. The network delivers its webhooks
to the API, which folds them and settles leads. A session stand-in offers slots, takes the media socket of an answered
call, and writes the call's end as a session does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, WebSocket
from fastapi.websockets import WebSocketState

from load_tests.dialer.child import CONNECT_S, say_ready
from serve_app.api.app import create_app
from serve_app.api.deps import ApiDeps
from serve_app.clock import SystemClock
from serve_app.conversation.lease import CallLease, CallResult
from serve_app.conversation.sql_journal import SqlJournal
from serve_app.dialing.settling import settle_lead
from serve_app.errors import UnavailableError
from serve_app.jobs.finalize import run_reconciler
from serve_app.log import configure_logging
from serve_app.settings import Settings
from serve_app.store.db import Database
from serve_app.store.live import LiveState
from serve_app.store.objects import ObjectStore
from serve_app.store.repositories import Calls
from serve_app.telephony.vonage.rest import VonageClient

BEAT_S = 1.0
REPLICA = "sessions-1"
TALK_S = 0.1


async def serve(pipe: Connection, document: Mapping[str, Any], sessions: int, folder: Path) -> None:
    """Until the process ends. `document`: of `Settings`, without the addresses that lead here."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port = listener.getsockname()[1]
        settings = Settings(**with_addresses(document, port))
        configure_logging(settings.log)
        assert settings.database.url is not None and settings.redis.url is not None
        db = await Database.connect(settings.database.url, connect_timeout_s=CONNECT_S)
        live = await LiveState.connect(settings.redis.url, connect_timeout_s=CONNECT_S)
        objects = ObjectStore.open(None, folder)
        control = VonageClient(settings.telephony.vonage)
        app = create_app(ApiDeps(settings=settings, db=db, live=live, objects=objects, control=control))
        add_media(app, db, live, settings.telephony.vonage.sample_rate_hz)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
        say_ready(pipe, port)
        async with asyncio.TaskGroup() as group:
            group.create_task(_offer(live, sessions))
            token_life_s = settings.telephony.vonage.ringing_timer_s + 30
            group.create_task(run_reconciler(db, live, control, token_life_s=token_life_s))
            group.create_task(server.serve(sockets=[listener]))


def with_addresses(document: Mapping[str, Any], port: int) -> dict[str, Any]:
    """The settings of a platform whose API and media are at this port of this machine."""
    own = {"public_url": f"http://127.0.0.1:{port}", "media_url": f"ws://127.0.0.1:{port}"}
    return {**document, "server": own}


async def _offer(live: LiveState, sessions: int) -> None:
    while True:
        with suppress(UnavailableError):  # Redis is being restarted; the next beat tells
            await live.beat(REPLICA, sessions)
        await asyncio.sleep(BEAT_S)


def add_media(app: FastAPI, db: Database, live: LiveState, sample_rate_hz: int) -> None:
    journal = SqlJournal(db, live, verdict=settle_lead)
    clock = SystemClock()

    @app.websocket("/media/{call_id}")
    async def talk(media: WebSocket, call_id: str) -> None:
        token = media.headers.get("authorization", "").removeprefix("Bearer ")
        payload = await live.take_media_token(token)
        if payload is None:
            await media.close(4403)
            return
        lease = CallLease.model_validate_json(payload)
        await media.accept()
        began = datetime.now(UTC)
        await Calls(db, lease.tenant_id).in_progress(call_id, began)
        with suppress(TimeoutError):
            async with asyncio.timeout(TALK_S):
                while (await media.receive())["type"] != "websocket.disconnect":
                    pass
        ended = clock.now()
        result = CallResult(
            call_id=call_id,
            tenant_id=lease.tenant_id,
            outcome="completed",
            started_at=began,
            ended_at=ended,
            duration_s=(ended - began).total_seconds(),
            sample_rate_hz=sample_rate_hz,
        )
        await journal.finished(lease, result)
        await live.release(lease.slot_id)
        if media.client_state is WebSocketState.CONNECTED:
            await media.close()
