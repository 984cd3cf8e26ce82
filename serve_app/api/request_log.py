"""One log line and one count per request, a request id on everything logged meanwhile, and the last word on faults.

Pure ASGI, so that streams pass through untouched. The line names the route's template and never the path or the query
string: those carry tokens, signatures and numbers.
"""

from __future__ import annotations

import re
import time

import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.problems import unexpected_problem
from serve_app.metrics import HTTP_REQUESTS
from serve_app.store.base import new_id

HEADER = b"x-request-id"
# A method is any token that a client invents; as a label each would be a time series of its own.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ACCEPTABLE = re.compile(r"[A-Za-z0-9_.-]{8,64}")
# Asked every few seconds by probes and scrapers.
_QUIET = frozenset({"/health", "/ready", "/metrics"})
log = structlog.get_logger(__name__)


class RequestLog:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        began = time.monotonic()
        status, started = 500, False

        async def send_with_id(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                started = True
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except Exception:
                # The root of a request. The caller gets nothing of the traceback, only the id to look it up by.
                log.exception("request_failed", route=_route(scope))
                if started:
                    raise
                await unexpected_problem(Request(scope))(scope, receive, send_with_id)
            finally:
                route = _route(scope)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                HTTP_REQUESTS.labels(method, route, str(status)).inc()
                if route not in _QUIET:
                    duration_ms = round((time.monotonic() - began) * 1000, 1)
                    log.info("request", method=method, route=route, status=status, duration_ms=duration_ms)


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == HEADER:
            text: str = value.decode("latin-1")
            return text if _ACCEPTABLE.fullmatch(text) else None
    return None
