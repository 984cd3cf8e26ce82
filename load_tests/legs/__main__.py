"""`python -m load_tests.legs`: one leg worker on standard input and output."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys

import structlog
import uvloop

from load_tests.legs.worker import serve_standard_streams
from serve_app.simulators.speech import speak


def main() -> None:
    # Standard output carries events and nothing else.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    speak("Ready.")  # its absence must be told at the start, and the first call must not wait for the voice
    gc.collect()
    gc.freeze()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve_standard_streams())


if __name__ == "__main__":
    main()
