"""`make bench`: the quick benchmarks. Each prints its aim, the figure, the spread, and PASS or MISS.

A figure is the median of seven rounds of CPU time; the spread is their range. No Ray, no network, no simulators.
"""

from __future__ import annotations

import sys

import uvloop

from load_tests.micro import audio, conversation, media
from load_tests.micro.figures import print_figures


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
    ]
    print_figures("Quick benchmarks", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
