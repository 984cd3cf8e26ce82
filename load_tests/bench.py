"""`make bench`: the quick benchmarks. Each prints its aim, the figure, the spread, and PASS or MISS.

A figure is the median of seven rounds of CPU time; the spread is their range. No Ray, no network, no simulators.
Then the chaos table: what a caller hears when a provider fails, and the longest silence.
"""

from __future__ import annotations

import sys

import uvloop

from load_tests.chaos import chaos, print_findings
from load_tests.micro import audio, conversation, latency, media
from load_tests.micro.figures import print_figures
from serve_app.log import configure_logging
from serve_app.settings import LogSettings


def main() -> int:
    """Run all and print the table. The exit code is 0 whatever the figures: machines differ."""
    figures = [
        media.link_codec(),
        media.vonage_wire(),
        media.playout(),
        uvloop.run(media.link_round_trip()),
        audio.mu_law(),
        audio.resampling(8000, 16000),
        audio.resampling(16000, 8000),
        audio.resampling(24000, 16000),
        conversation.turn_machine(),
        conversation.recorder(),
        conversation.documents(),
        latency.reported(),
        latency.traced(),
    ]
    print_figures("Quick benchmarks", figures)
    # Failing providers are logged, and are what the table is about.
    configure_logging(LogSettings(level="ERROR"))
    print_findings(chaos())
    return 0


if __name__ == "__main__":
    sys.exit(main())
