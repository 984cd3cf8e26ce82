"""`python -m load_tests.floor --simulators-url URL --greeting TEXT`: serve until SIGTERM or SIGINT.

Prints one JSON line with the address when ready.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys

import picows
import uvloop

from load_tests.floor.call import Call
from load_tests.floor.providers import Options, Providers


async def serve(options: Options, port: int) -> None:
    providers = Providers(options)
    server = await picows.ws_create_server(lambda request: Call(providers), "127.0.0.1", port, backlog=1024)
    # What the imports left is not looked through again at each full collection.
    gc.collect()
    gc.freeze()
    listening = server.sockets[0].getsockname()[1]
    ready = {"websocket_url": f"ws://127.0.0.1:{listening}/ws", "port": listening, "pid": os.getpid()}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    server.close()
    await providers.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load_tests.floor", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--simulators-url", required=True, help="base of all three providers, http://host:port")
    parser.add_argument("--system-prompt", default="You are Ava. Answer from the facts.")
    parser.add_argument("--greeting", required=True, help="what the agent says first")
    arguments = parser.parse_args()
    options = Options(arguments.simulators_url.rstrip("/"), arguments.system_prompt, arguments.greeting)
    uvloop.run(serve(options, arguments.port))


if __name__ == "__main__":
    main()
