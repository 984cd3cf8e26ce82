"""The FastAPI application, assembled from its routers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from serve_app.api import (
    agents,
    calls,
    campaigns,
    consents,
    do_not_call,
    health,
    imports,
    kill_switches,
    leads,
    numbers,
    results,
    webhooks,
)
from serve_app.api.deps import ApiDeps
from serve_app.api.inbox import Inbox
from serve_app.api.problems import install_problem_handlers
from serve_app.api.request_log import RequestLog


def create_app(deps: ApiDeps) -> FastAPI:
    """The control API over `deps`. Raises SettingsError if the webhooks' signature secret is missing."""
    app = FastAPI(
        title="Parley",
        summary="AI phone calls at scale",
        version=platform_version(),
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.deps = deps
    app.state.links = deps.links()
    app.state.inbox = Inbox(deps)
    app.state.watchers = 0
    app.add_middleware(RequestLog)
    install_problem_handlers(app)
    for room in (
        calls,
        results,
        campaigns,
        leads,
        imports,
        agents,
        consents,
        do_not_call,
        kill_switches,
        numbers,
        webhooks,
        health,
    ):
        app.include_router(room.router)
    return app


def platform_version() -> str:
    try:
        return version("parley")
    except PackageNotFoundError:
        return "0+source"
