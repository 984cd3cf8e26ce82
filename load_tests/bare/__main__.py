"""`python -m load_tests.bare --agent FILE --data-dir DIR`: serve until SIGTERM.

Prints one JSON line with the address when ready. Settings come from the environment and YAML as the platform's do.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

import uvicorn

from load_tests.bare.server import BareServer, asgi
from serve_app.conversation.agent import AgentDefinition
from serve_app.log import configure_logging
from serve_app.settings import load_settings
from serve_app.telephony import direct_socket


class AnnouncedServer(uvicorn.Server):
    """Tells its address on standard output once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            ready = {"websocket_url": f"ws://127.0.0.1:{port}/ws", "port": port, "pid": os.getpid()}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()


async def serve(arguments: argparse.Namespace) -> None:
    settings = load_settings()
    configure_logging(settings.log)
    agent = AgentDefinition.model_validate_json(arguments.agent.read_text(encoding="utf-8"))
    direct_socket.install()  # as the ingress does
    application = asgi(BareServer(settings, agent, arguments.data_dir))
    config = uvicorn.Config(
        application,
        host="127.0.0.1",
        port=arguments.port,
        log_config=None,
        log_level="warning",
        access_log=False,
        ws_per_message_deflate=False,
        ws_ping_interval=None,  # audio flows all the time
        timeout_graceful_shutdown=5,
    )
    await AnnouncedServer(config).serve()


def main() -> None:
    import uvloop

    parser = argparse.ArgumentParser(prog="python -m load_tests.bare", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--agent", type=Path, required=True, help="the agent definition, JSON")
    parser.add_argument("--data-dir", type=Path, required=True, help="SQLite file and recordings")
    arguments = parser.parse_args()
    arguments.data_dir.mkdir(parents=True, exist_ok=True)
    uvloop.run(serve(arguments))


if __name__ == "__main__":
    main()
