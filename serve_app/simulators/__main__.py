"""`python -m serve_app.simulators`: run the stand-ins until SIGTERM, SIGINT or the end of stdin.

Prints one JSON line with the address when ready. Stdin is the tie to the parent: a parent that dies closes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from serve_app.errors import SettingsError
from serve_app.simulators.app import make_app
from serve_app.simulators.config import SimulatorConfig, load_config
from serve_app.simulators.speech import speak

_DRAIN_S = 2.0


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when stdin ends. A terminal or /dev/null is no tie: its end says nothing about the parent."""
    descriptor = sys.stdin.fileno()
    if sys.stdin.isatty():
        return
    try:

        def readable() -> None:
            if os.read(descriptor, 4096) == b"":
                loop.remove_reader(descriptor)
                stop.set()

        loop.add_reader(descriptor, readable)
    except (OSError, ValueError, NotImplementedError):
        # Not a pipe (a regular file cannot be watched): only signals stop the process.
        return


async def _run(host: str, port: int, config: SimulatorConfig, *, ignore_stdin: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    runner = web.AppRunner(make_app(config), access_log=None, shutdown_timeout=_DRAIN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        address = runner.addresses[0]
        if not ignore_stdin:
            _watch_stdin(loop, stop)
        url = f"http://{address[0]}:{address[1]}"
        ready = {"url": url, "websocket_url": url.replace("http", "ws", 1), "port": address[1], "pid": os.getpid()}
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.simulators", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--config", type=Path, default=None, help="YAML document of the stand-ins")
    parser.add_argument("--ignore-stdin", action="store_true", help="go on when stdin ends")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config)
        # Loads the speech engine now: its absence must be told at the start, and the first call must not wait for it.
        speak("Ready.")
    except (SettingsError, ImportError) as error:
        remedy = "; install the dependency group `simulators`" if isinstance(error, ImportError) else ""
        raise SystemExit(f"the stand-ins cannot start: {error}{remedy}") from error
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        runner.run(_run(arguments.host, arguments.port, config, ignore_stdin=arguments.ignore_stdin))


if __name__ == "__main__":
    main()
