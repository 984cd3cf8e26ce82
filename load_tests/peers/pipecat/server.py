"""`python server.py`: one uvicorn process that answers Vonage media sockets at `/ws` with Pipecat, many calls at once.

Prints one JSON line with its address when it listens; SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from loguru import logger

# Before Pipecat is imported: its banner is the first thing that it logs.
logger.remove()
logger.add(sys.stderr, level="WARNING")

import uvicorn  # noqa: E402
from bot import BotOptions, make_transport, run_bot  # noqa: E402
from fastapi import FastAPI, WebSocket  # noqa: E402

_BACKLOG = 1024


def make_app(options: BotOptions, ready: dict[str, object]) -> FastAPI:
    """The application with its one socket route, which Pipecat's own runner names `/ws` too."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # The socket listens already: who connects now is answered as soon as the start-up is over.
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.websocket("/ws")
    async def media(websocket: WebSocket) -> None:
        await websocket.accept()
        # Pipecat's runner, too, reads the opening frames itself to learn whose call it is.
        opening = json.loads(await websocket.receive_text())
        await run_bot(make_transport(websocket), str(opening.get("call_id", "")), options)

    return app


def _sockets(url: str) -> str:
    return url.replace("http", "ws", 1)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. Models and voice default to what the stand-ins and the system beside it use."""
    parser = argparse.ArgumentParser(prog="server.py", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--simulators-url", required=True, help="base of all three providers, http://host:port")
    parser.add_argument("--stt-url", help="ws://host:port of the speech-to-text provider, where it is another one")
    parser.add_argument("--llm-url", help="http://host:port of the language model, where it is another one")
    parser.add_argument("--tts-url", help="ws://host:port of the text-to-speech provider, where it is another one")
    parser.add_argument("--llm-model", default="openai/gpt-oss-20b")
    parser.add_argument("--tts-model", default="sonic-3")
    parser.add_argument("--tts-voice", default="6ccbfb76-1fc6-48f7-b71d-91ac6298247b")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--system-prompt", default="You are a helpful assistant in a voice conversation.")
    prompt.add_argument("--system-prompt-file", type=Path)
    parser.add_argument("--greeting", default="", help="spoken at the start; without it the model opens the call")
    parser.add_argument("--eot-threshold", type=float, default=0.7)
    parser.add_argument("--eot-timeout-ms", type=int, default=3000)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    return parser.parse_args(arguments)


def options_of(arguments: argparse.Namespace) -> BotOptions:
    """Full provider addresses from the command line's bases."""
    base = arguments.simulators_url.rstrip("/")
    prompt_file: Path | None = arguments.system_prompt_file
    return BotOptions(
        stt_url=f"{(arguments.stt_url or _sockets(base)).rstrip('/')}/v2/listen",
        llm_url=f"{(arguments.llm_url or base).rstrip('/')}/openai/v1",
        tts_url=f"{(arguments.tts_url or _sockets(base)).rstrip('/')}/tts/websocket",
        llm_model=arguments.llm_model,
        tts_model=arguments.tts_model,
        tts_voice=arguments.tts_voice,
        system_prompt=prompt_file.read_text(encoding="utf-8") if prompt_file else arguments.system_prompt,
        greeting=arguments.greeting,
        stt_end_of_turn_threshold=arguments.eot_threshold,
        stt_end_of_turn_timeout_ms=arguments.eot_timeout_ms,
    )


def main() -> None:
    """Parse the command line and serve."""
    arguments = parse()
    listener = socket.create_server((arguments.host, arguments.port), backlog=_BACKLOG)
    host, port = listener.getsockname()[:2]
    ready = {"websocket_url": f"ws://{host}:{port}/ws", "port": port, "pid": os.getpid()}
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(options_of(arguments), ready),
            # uvloop and httptools: Pipecat's own runner has neither, and a peer must not be slower for it.
            loop=arguments.loop,
            http="httptools",
            log_level="warning",
            access_log=False,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=2,
        )
    )
    # What the imports left is not looked through again at each full collection.
    gc.collect()
    gc.freeze()

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    main()
