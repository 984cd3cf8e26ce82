"""The profiler's own arithmetic: finding replicas, adding up stacks, CPU by thread."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

from load_tests.flames import Target, busiest, find_replicas, read_stacks, thread_times, without_command_line


def test_stacks_are_added_up_by_function_and_recursion_counts_once() -> None:
    stacks = read_stacks(
        [
            "main (app.py:3);walk (app.py:10);walk (app.py:12) 3",
            "main (app.py:3);walk (app.py:11);send (wire.py:7) 1",
            "",
        ]
    )
    assert stacks.samples == 4
    assert stacks.own == {"walk (app.py)": 3, "send (wire.py)": 1}
    assert stacks.total == {"main (app.py)": 4, "walk (app.py)": 4, "send (wire.py)": 1}


def test_replicas_are_found_by_title_and_only_those_of_the_wanted_roles() -> None:
    titles = ["ray::ServeReplica:voice:MediaIngress.run", "ray::ServeReplica:voice:CodecPool", "ray::IDLE"]
    code = "import sys; sys.stdin.read()"
    children = [
        subprocess.Popen([title, "-c", code], executable=sys.executable, stdin=subprocess.PIPE) for title in titles
    ]
    try:
        deadline = time.monotonic() + 10
        while not (found := find_replicas(["MediaIngress", "CallSessions"], os.getpid())):
            assert time.monotonic() < deadline
        assert [(target.name, target.process.pid) for target in found] == [("MediaIngress", children[0].pid)]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_of_each_role_the_replica_that_works_is_looked_into() -> None:
    codes = ["import sys; sys.stdin.read()", "while True: pass", "import sys; sys.stdin.read()"]
    children = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) for code in codes]
    try:
        idle, working, alone = (psutil.Process(child.pid) for child in children)
        sessions = [Target("CallSessions", idle, "CallSessions"), Target("CallSessions-2", working, "CallSessions")]
        chosen = busiest([*sessions, Target("MediaIngress", alone, "MediaIngress")], 0.5)
        assert {target.name: target.process.pid for target in chosen} == {
            "CallSessions": working.pid,
            "MediaIngress": alone.pid,
        }
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_a_graph_does_not_show_the_machine_that_it_was_made_on() -> None:
    svg = '<svg><text id="title" y="24">/home/me/.venv/bin/py-spy record --pid 7</text><text>main (app.py)</text></svg>'
    assert without_command_line(svg, "Ingress & more") == (
        '<svg><text id="title" y="24">Ingress &amp; more</text><text>main (app.py)</text></svg>'
    )


def test_cpu_by_thread_is_what_was_spent_since_the_start_of_the_window() -> None:
    process = psutil.Process()
    before = [(thread.id, thread.user_time, thread.system_time) for thread in process.threads()]
    spent_from = time.thread_time()
    while time.thread_time() - spent_from < 0.2:
        pass
    busiest = thread_times(process, before, seconds=1.0)[0]
    # The kernel counts in steps of 10 ms.
    assert busiest.user_ms + busiest.system_ms >= 150
