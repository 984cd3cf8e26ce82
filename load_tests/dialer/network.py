"""The simulated phone network in a process of its own. It notes every request, and can shoot whoever sent one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from load_tests.dialer.child import say_ready
from serve_app.log import configure_logging
from serve_app.settings import LogSettings
from serve_app.simulators.callee import CalleeBehaviour
from serve_app.simulators.network import add_network_routes
from serve_app.simulators.network_config import NetworkConfig
from serve_app.simulators.network_exchange import NETWORK


@dataclass(slots=True)
class Post:
    """A create-call request."""

    at: float
    """When it arrived, in seconds since 1970."""
    attempt: str
    """As its links name it."""
    number: str
    status: int = 0
    """Of the answer; 0: it was not finished."""


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A call of the network. Times in seconds since 1970; `ended_at` None: it goes on."""

    attempt: str
    number: str
    started_at: float
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network saw, oldest first."""

    posts: Sequence[Post]
    calls: Sequence[SeenCall]


@dataclass(slots=True)
class Shot:
    """SIGKILL to `pid`, `delay_s` after the `posts`-th request from now; 0: before that one is looked at."""

    pid: int
    posts: int
    delay_s: float


class Record:
    """What happened, and what is to happen."""

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.shot: Shot | None = None

    def note(self, post: Post) -> None:
        self.posts.append(post)
        if self.shot is None:
            return
        self.shot.posts -= 1
        if self.shot.posts == 0:
            shot, self.shot = self.shot, None
            if shot.delay_s:
                asyncio.get_running_loop().call_later(shot.delay_s, os.kill, shot.pid, signal.SIGKILL)
            else:
                os.kill(shot.pid, signal.SIGKILL)


RECORD = web.AppKey("record", Record)


async def serve(pipe: Connection, config: Mapping[str, Any], callees: Mapping[str, Mapping[str, Any]]) -> None:
    """Until the process ends. `callees`: the behaviour of each number, as it is on the wire."""
    configure_logging(LogSettings(level="ERROR"))
    app = web.Application(middlewares=[_noted])
    app[RECORD] = Record()
    network = add_network_routes(app, NetworkConfig.model_validate(config))
    made = {json.dumps(one): CalleeBehaviour.model_validate(one) for one in callees.values()}
    network.callees.update({number: made[json.dumps(one)] for number, one in callees.items()})
    app.router.add_get("/record", _record)
    app.router.add_get("/count", _count)
    app.router.add_post("/shot", _aim)
    app.router.add_delete("/shot", _lower)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say_ready(pipe, runner.addresses[0][1])
    await asyncio.Event().wait()


@web.middleware
async def _noted(request: web.Request, handler: Handler) -> web.StreamResponse:
    if (request.method, request.path) != ("POST", "/v1/calls"):
        return await handler(request)
    at = time.time()
    document = json.loads(await request.read())
    post = Post(at, attempt_of(document["event_url"][0]), document["to"][0]["number"])
    request.app[RECORD].note(post)
    response = await handler(request)
    post.status = response.status
    return response


async def _record(request: web.Request) -> web.Response:
    calls = [
        SeenCall(
            attempt_of(call.request.event_url or ""),
            call.request.to_number,
            call.created_at.timestamp(),
            None if call.ended_at is None else call.ended_at.timestamp(),
        )
        for call in request.app[NETWORK].calls.values()
    ]
    posts = [asdict(post) for post in request.app[RECORD].posts]
    return web.json_response({"posts": posts, "calls": [asdict(call) for call in calls]})


async def _count(request: web.Request) -> web.Response:
    return web.json_response(len(request.app[RECORD].posts))


async def _aim(request: web.Request) -> web.Response:
    request.app[RECORD].shot = Shot(**await request.json())
    return web.Response(status=204)


async def _lower(request: web.Request) -> web.Response:
    request.app[RECORD].shot = None
    return web.Response(status=204)


def attempt_of(event_url: str) -> str:
    return parse_qs(urlsplit(event_url).query)["attempt"][0]
