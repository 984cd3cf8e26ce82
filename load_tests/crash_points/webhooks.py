"""The API process as the network sees it: signed webhooks go in, answers come out, unless it dies over them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import jwt
from starlette.requests import Request

from load_tests.crash_points.processes import Process
from serve_app.api.deps import ApiDeps
from serve_app.api.inbox import Inbox
from serve_app.api.problems import ProblemError
from serve_app.api.webhooks import answer_webhook, event_webhook
from serve_app.dialing.links import ANSWER_PATH
from serve_app.errors import UnavailableError

SECRET = "signature-secret-of-the-simulation-0123456789"


class WebhookServer:
    def __init__(self, deps: ApiDeps) -> None:
        self._deps = deps
        self._app = SimpleNamespace(state=SimpleNamespace(deps=deps, links=deps.links()))
        self._process: Process | None = None

    async def serve(self, process: Process) -> None:
        """One life of the API process."""
        self._app.state.inbox = inbox = Inbox(self._deps)
        self._process = process
        await inbox.run()

    async def deliver(self, url: str, document: dict[str, Any]) -> str | None:
        """POST a signed webhook; the body of the answer, or None: nobody serves, or there was no good answer."""
        process = self._process
        if process is None or not process.alive:
            return None
        parts = urlsplit(url)
        body = json.dumps(document).encode()
        claims = {
            "iat": int(self._deps.clock.now().timestamp()),
            "jti": hashlib.sha256(body).hexdigest(),
            "application_id": self._deps.settings.telephony.vonage.application_id,
            "payload_hash": hashlib.sha256(body).hexdigest(),
        }
        token = jwt.encode(claims, SECRET, algorithm="HS256")
        scope = {
            "type": "http",
            "method": "POST",
            "path": parts.path,
            "query_string": parts.query.encode(),
            "headers": [(b"authorization", f"Bearer {token}".encode())],
            "app": self._app,
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        handler = answer_webhook if parts.path == ANSWER_PATH else event_webhook
        handled = process.start(handler(Request(scope, receive), self._deps))
        await asyncio.wait([handled])
        if handled.cancelled():
            return None
        try:
            return bytes(handled.result().body).decode()
        except (UnavailableError, TimeoutError):
            return None
        except ProblemError as error:
            if error.status == 404:
                return None
            raise
