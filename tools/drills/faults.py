"""What disturbs a run: it, or a part of it, is killed or asked to end at some moment, or a file cannot get longer."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from drills.inputs import ROOT
from perception.signals import STOP_SIGNALS

LONGEST_S = 300.0
_ENDING_S = 30.0  # for workers whose parent was killed


@dataclass(frozen=True)
class Run:
    code: int
    err: str
    orphans: int


def run(command: list[str], disturb: Callable[[subprocess.Popen], None] | None = None, file_bytes: int = -1) -> Run:
    """Run a command, as the first of a session of its own.

    Args:
        disturb: called as soon as it is started.
        file_bytes: the longest file that it can write; -1 for any.
    """

    def begin() -> None:  # in the child: the usual dispositions, whatever the drill was started with
        for number in STOP_SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if file_bytes >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TQDM_DISABLE": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True, preexec_fn=begin,
    ) as process:  # fmt: skip
        try:
            if disturb is not None:
                disturb(process)
            _, err = process.communicate(timeout=LONGEST_S)
            return Run(process.returncode, err, _outlasting(process.pid))
        finally:
            for pid in _of_session(process.pid):
                os.kill(pid, signal.SIGKILL)


def kill(command: list[str], takes_s: float, chance: random.Random, turn: int) -> Run:
    return run(command, lambda process: _at(chance.uniform(0, takes_s), process, signal.SIGKILL))


def end(command: list[str], takes_s: float, chance: random.Random, turn: int) -> Run:
    """SIGTERM, SIGHUP and Ctrl-C in turn; start-up of the interpreter apart, which is not ours."""
    number = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[turn % 3]
    earliest_s = 0.2 if number == signal.SIGINT else 0.0
    return run(command, lambda process: _at(chance.uniform(earliest_s, takes_s), process, number))


def full(command: list[str], takes_s: float, chance: random.Random, turn: int) -> Run:
    """No file may get longer than some bytes, as on a disk that is full; from 1 kB to 4 MB."""
    return run(command, file_bytes=round(2 ** chance.uniform(10, 22)))


def rank(command: list[str], takes_s: float, chance: random.Random, turn: int) -> Run:
    """One of the processes that the command has started is killed, not the command itself."""
    return run(command, lambda process: _at_another(chance.uniform(0, takes_s), process, chance))


FAULTS = {"kill": kill, "end": end, "full": full, "rank": rank}


def problem(fault: str, found: Run, codes: tuple[int, ...]) -> str | None:
    """What is wrong with the way in which a run ended."""
    allowed = {
        "kill": (0, -signal.SIGKILL),
        "end": (0, *codes, *(128 + number for number in STOP_SIGNALS), *(-number for number in STOP_SIGNALS)),
        "full": (0, 2, 1),
        "rank": (0, 1),  # torchrun's, which prints a traceback of its own
    }[fault]
    last = (found.err.strip().splitlines() or [""])[-1]
    if (fault != "rank" and "Traceback" in found.err) or "panicked" in found.err:
        return f"a traceback: {last}"
    if found.code not in allowed:
        return f"exit code {found.code}: {last}"
    return f"{found.orphans} processes go on" if found.orphans else None


def _at(moment_s: float, process: subprocess.Popen, number: int) -> None:
    time.sleep(moment_s)
    if process.poll() is None:
        os.kill(process.pid, number)


def _at_another(moment_s: float, process: subprocess.Popen, chance: random.Random) -> None:
    time.sleep(moment_s)
    others = _below(process.pid)
    if others:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(others), signal.SIGKILL)


def _below(pid: int) -> list[int]:
    """The processes that a process has started, and those that these have; torchrun's are in sessions of their own."""
    parents = {own: int(parent) for own, _, parent, _ in _processes()}
    found = [pid]
    for each in found:  # which grows
        found += [own for own, parent in parents.items() if parent == each]
    return sorted(found[1:])


def _outlasting(session: int) -> int:
    """How many processes of a session go on although the first has ended."""
    deadline = time.monotonic() + _ENDING_S
    while (left := _of_session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(left)


def _of_session(session: int) -> list[int]:
    return [pid for pid, state, _, of_session in _processes() if int(of_session) == session and state != "Z"]


def _processes() -> Iterator[tuple[int, str, str, str]]:
    """Number, state, parent and session of each."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        yield int(path.parent.name), state, parent, session
