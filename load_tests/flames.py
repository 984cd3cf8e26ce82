"""`python -m load_tests.flames`: where the CPU time of a running platform goes, process by process.

Finds the ingress and session replicas of this machine by their titles and writes, for the busiest of each role, a flame
graph (SVG) and a table: CPU by thread, then the Python functions that held the interpreter most, by themselves and with
what they call. Only those samples count: a thread that waits, or works outside the interpreter, is in none. Run it
while calls are on the line; the sampler pauses the process for each sample and takes a core's share itself, so
latencies measured meanwhile are worth nothing.

Not named `profile`: Locust puts this folder on the import path, where that would hide the standard module.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROLES = ("MediaIngress", "CallSessions")
_REPLICA = re.compile(r"ServeReplica:\w+:(\w+)")
_TOP = 15
BUSIEST_OVER_S = 5.0
_SPARE_S = 30.0
"""What py-spy may take beyond its sampling time: reading symbols (native ones above all) and writing the graph."""


@dataclass(frozen=True, slots=True)
class Target:
    """One process to look into. `name`: what its files are called."""

    name: str
    process: psutil.Process
    role: str = ""
    """Its deployment."""


@dataclass(frozen=True, slots=True)
class ThreadTime:
    """CPU time of one thread of the process within the window, in ms per second."""

    name: str
    user_ms: float
    system_ms: float


@dataclass(frozen=True, slots=True)
class Stacks:
    """Sampled stacks, added up per function: samples on top of the stack, and anywhere in it."""

    samples: int
    own: Counter[str]
    total: Counter[str]


def find_replicas(roles: Iterable[str], root_pid: int | None = None) -> list[Target]:
    """The replicas of these deployments: of the platform started by `root_pid`, else all of this user's."""
    wanted = set(roles)
    processes = psutil.Process(root_pid).children(recursive=True) if root_pid else psutil.process_iter()
    found: list[Target] = []
    count: Counter[str] = Counter()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            match = _REPLICA.search(" ".join(process.cmdline()))
            if match is not None and match.group(1) in wanted:
                role = match.group(1)
                count[role] += 1
                found.append(Target(f"{role}-{count[role]}" if count[role] > 1 else role, process, role))
    return found


def busiest(targets: Sequence[Target], seconds: float) -> list[Target]:
    """Of each role the replica that uses most CPU time from now on: the one that carries calls, not a spare one."""
    began = {target.process.pid: _cpu_s(target.process) for target in targets}
    time.sleep(seconds)
    spent = {target.process.pid: _cpu_s(target.process) - began[target.process.pid] for target in targets}
    chosen: dict[str, Target] = {}
    for target in sorted(targets, key=lambda target: spent[target.process.pid], reverse=True):
        chosen.setdefault(target.role, Target(target.role, target.process, target.role))
    return list(chosen.values())


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def thread_times(
    process: psutil.Process, before: Sequence[tuple[int, float, float]], seconds: float
) -> list[ThreadTime]:
    """CPU by thread since `before` (id, user, system seconds), the busiest first. Threads that ended are not seen."""
    began = {thread: (user, system) for thread, user, system in before}
    times = []
    for thread, user, system in process.threads():
        was_user, was_system = began.get(thread, (0.0, 0.0))
        scale = 1000 / seconds
        spent = ThreadTime(_thread_name(process.pid, thread), (user - was_user) * scale, (system - was_system) * scale)
        if spent.user_ms + spent.system_ms >= 0.5:
            times.append(spent)
    return sorted(times, key=lambda thread: -(thread.user_ms + thread.system_ms))


def _thread_name(pid: int, thread: int) -> str:
    try:
        return Path(f"/proc/{pid}/task/{thread}/comm").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return str(thread)


def read_stacks(lines: Iterable[str]) -> Stacks:
    """Add up py-spy's raw format: frames from the outermost on, joined by semicolons, a space, the count."""
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    samples = 0
    for line in lines:
        stack, _, count_text = line.rstrip("\n").rpartition(" ")
        if not stack:
            continue
        count = int(count_text)
        frames = [re.sub(r":\d+\)$", ")", frame) for frame in stack.split(";")]
        samples += count
        own[frames[-1]] += count
        for frame in set(frames):  # a recursive function counts once per sample
            total[frame] += count
    return Stacks(samples, own, total)


def _record(process: psutil.Process, output: Path, form: str, arguments: argparse.Namespace) -> None:
    """One run of py-spy. Raises RuntimeError with its own words when it fails."""
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    command = [py_spy, "record", "--pid", str(process.pid), "--duration", str(arguments.seconds)]
    command += ["--rate", str(arguments.rate), "--format", form, "--output", str(output)]
    # By function rather than by line: fewer and wider boxes, and a smaller file. Without `--gil`, threads that wait in
    # C code look busy to it.
    command += ["--gil", "--function", *(["--native"] if arguments.native else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.seconds + _SPARE_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"py-spy of {process.pid}: {done.stderr.strip() or done.stdout.strip()}")


def without_command_line(svg: str, title: str) -> str:
    """py-spy's graph is titled with its own command line: this machine's paths and process ids."""
    return re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda found: found.group(1) + html.escape(title), svg, count=1)


def look_into(target: Target, arguments: argparse.Namespace) -> str:
    """Record one process twice, graph and table. Returns the table as Markdown."""
    folder: Path = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    # The first window is without a sampler: py-spy's pauses would be in the times.
    before = [(thread.id, thread.user_time, thread.system_time) for thread in target.process.threads()]
    began = time.monotonic()
    time.sleep(arguments.seconds)
    threads = thread_times(target.process, before, time.monotonic() - began)
    with tempfile.TemporaryDirectory() as scratch:
        raw = Path(scratch) / "stacks.txt"
        _record(target.process, raw, "raw", arguments)
        stacks = read_stacks(raw.read_text(encoding="utf-8").splitlines())
    graph = folder / f"{target.name}.svg"
    _record(target.process, graph, "flamegraph", arguments)
    title = f"{target.name}: samples that hold the interpreter, {arguments.seconds} s at {arguments.rate} Hz"
    graph.write_text(without_command_line(graph.read_text(encoding="utf-8"), title), encoding="utf-8")
    table = "\n".join(_table(target, threads, stacks, arguments)) + "\n"
    (folder / f"{target.name}.md").write_text(table, encoding="utf-8")
    return table


def _table(
    target: Target, threads: Sequence[ThreadTime], stacks: Stacks, arguments: argparse.Namespace
) -> Iterator[str]:
    user, system = sum(t.user_ms for t in threads), sum(t.system_ms for t in threads)
    yield f"## {target.name}"
    yield ""
    yield f"CPU {user + system:.0f} ms per second: {user:.0f} in user mode, {system:.0f} in the kernel."
    yield f"{stacks.samples} samples held the interpreter in {arguments.seconds} s at {arguments.rate} Hz."
    yield ""
    yield "| thread | user, ms/s | kernel, ms/s |"
    yield "|---|---|---|"
    for thread in threads[:_TOP]:
        yield f"| {thread.name} | {thread.user_ms:.1f} | {thread.system_ms:.1f} |"
    for title, counts in (("by itself", stacks.own), ("with what it calls", stacks.total)):
        yield ""
        yield f"| function | share, {title} |"
        yield "|---|---|"
        for function, count in counts.most_common(_TOP):
            yield f"| `{function}` | {count / max(1, stacks.samples):.1%} |"


def _named_pid(text: str) -> Target:
    name, _, pid = text.partition("=")
    try:
        return Target(name, psutil.Process(int(pid)))
    except (ValueError, psutil.Error) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PID of a process that runs") from error


def main() -> None:
    """Parse the command line, look into each process in turn."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.flames", description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="of each of three windows per process")
    parser.add_argument("--rate", type=int, default=200, help="samples per second")
    parser.add_argument("--native", action="store_true", help="with C frames: shows system calls, costs far more")
    parser.add_argument("--out", type=Path, default=Path("docs/flames"))
    parser.add_argument("--roles", default=",".join(ROLES), help="deployments, separated by commas")
    parser.add_argument("--every", action="store_true", help="every replica of a role, not only the busiest")
    parser.add_argument("--root-pid", type=int, help="the `serve run` process, where several platforms run")
    parser.add_argument("--pid", type=_named_pid, action="append", default=[], metavar="NAME=PID",
                        help="another Python process, such as a peer's; replicas are then not looked for")  # fmt: skip
    arguments = parser.parse_args()
    targets: list[Target] = arguments.pid or find_replicas(arguments.roles.split(","), arguments.root_pid)
    if not targets:
        raise SystemExit(f"no replica of {arguments.roles} runs on this machine")
    if not arguments.pid and not arguments.every:
        targets = busiest(targets, BUSIEST_OVER_S)
    for target in targets:
        try:
            print(look_into(target, arguments), flush=True)
        except (RuntimeError, psutil.Error, subprocess.TimeoutExpired) as error:
            raise SystemExit(f"{target.name}: {error}") from error


if __name__ == "__main__":
    main()
