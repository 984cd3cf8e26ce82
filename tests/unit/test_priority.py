"""Media processes run before Ray's other workers and webhooks between, where the system lets them."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest

from deployments import control_api, dialer, ingress, sessions, workers
from deployments.priority import MEDIA_NICENESS, WEBHOOK_NICENESS

RAY_NICENESS = 15
RAISES_ITSELF = """
import os, sys, threading, time
from deployments.priority import prefer_calls
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
os.setpriority(os.PRIO_PROCESS, 0, 15)
raised = prefer_calls(int(sys.argv[1]))
# Before the next thread: one that has ended may still be listed, and cannot be asked.
tasks = [os.getpriority(os.PRIO_PROCESS, int(t)) for t in os.listdir("/proc/self/task")]
later = []
thread = threading.Thread(target=lambda: later.append(os.getpriority(os.PRIO_PROCESS, 0)))
thread.start()
thread.join()
print(raised, max(tasks), later[0])
"""


@pytest.mark.parametrize("niceness", [MEDIA_NICENESS, WEBHOOK_NICENESS])
def test_every_thread_is_raised_or_nothing_happens(niceness: int) -> None:
    command = [sys.executable, "-c", RAISES_ITSELF, str(niceness)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    raised, slowest, later = done.stdout.split()[-3:]
    # Whether the system lets it is the machine's affair.
    assert (raised, slowest, later) in {("True", str(niceness), str(niceness)), ("False", "15", "15")}


def test_webhooks_come_after_calls_that_are_up_and_before_the_rest() -> None:
    assert MEDIA_NICENESS < WEBHOOK_NICENESS < RAY_NICENESS
    raises = {
        module.__name__.rpartition(".")[2]: [
            [ast.unparse(argument) for argument in call.args]
            for call in ast.walk(ast.parse(inspect.getsource(module)))
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "prefer_calls"
        ]
        for module in (ingress, sessions, control_api, dialer, workers)
    }
    assert raises == {
        "ingress": [[]],
        "sessions": [[]],
        "control_api": [["WEBHOOK_NICENESS"]],
        "dialer": [],
        "workers": [],
    }
