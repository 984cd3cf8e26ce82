"""System d: a featureless server, which is what a call costs in Python without everything else."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from load_tests.callbench.scenario import AGENT, OPENING
from load_tests.callbench.systems.base import Place
from load_tests.callbench.systems.one_process import OneProcess


class Floor(OneProcess):
    """`load_tests.floor`."""

    name = "floor"

    def command(self, place: Place) -> Sequence[str]:
        command = [sys.executable, "-m", "load_tests.floor", "--simulators-url", place.simulators_url]
        return [*command, "--system-prompt", AGENT["system_prompt"], "--greeting", OPENING]
