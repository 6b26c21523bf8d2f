"""Signals that ask a process to end: what they interrupt, what they wait for, and which exit code they give."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from perception.config import load_config
from perception.signals import STOP_SIGNALS, Interrupts, Stopped, blocked, exit_code, held, ignore_signals

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def dispositions():
    """The usual ones, whatever this process was started with."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_what_is_done_with_an_item_is_not_interrupted(number):
    done = []
    with pytest.raises(KeyboardInterrupt) as interrupt, Interrupts() as interrupts:
        for item in interrupts.between(range(10)):
            if item == 3:
                signal.raise_signal(number)
                if number != signal.SIGINT:
                    signal.raise_signal(number)  # terminals and service managers send it twice
            done.append(item)
    assert done == [0, 1, 2, 3] and exit_code(interrupt.value) == 128 + number
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_the_wait_for_an_item_is_interrupted():
    def items():
        yield 1
        signal.raise_signal(signal.SIGTERM)
        yield pytest.fail("interrupted before")

    with Interrupts() as interrupts:
        found = interrupts.between(items())
        assert next(found) == 1
        with pytest.raises(Stopped):
            next(found)
        signal.raise_signal(signal.SIGTERM)  # while results are written
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupts._received = None


def test_ctrl_c_pressed_again_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        for _ in interrupts.between([1]):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("interrupted before")


@pytest.mark.parametrize("failing", [False, True])
def test_held_signals_go_to_whoever_handled_them_before(failing):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with contextlib.suppress(ZeroDivisionError), held():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
            assert not failing or 1 / 0
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_is_not_held():
    with pytest.raises(KeyboardInterrupt), held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")


def test_a_signal_while_a_config_is_loaded_stays_one(monkeypatch):
    """OmegaConf would turn the exception into an AttributeError."""
    ended, structured = [], OmegaConf.structured

    def interrupted(schema):
        signal.raise_signal(signal.SIGINT)
        ended.append(structured(schema))
        return ended[0]

    monkeypatch.setattr(OmegaConf, "structured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_config("sim")
    assert ended


def test_what_comes_too_late_to_interrupt_is_told_at_the_end():
    done = []
    with pytest.raises(Stopped) as interrupt, Interrupts() as interrupts:
        done.extend(interrupts.between([1, 2]))
        signal.raise_signal(signal.SIGTERM)
        done.append("written")
    assert done == [1, 2, "written"] and interrupt.value.number == signal.SIGTERM
    assert pickle.loads(pickle.dumps(interrupt.value)).number == signal.SIGTERM  # on its way from a worker


def test_an_ignored_hangup_stays_ignored():
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as interrupts:
        for _ in interrupts.between([1, 2]):
            signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_workers_are_started_without_signals():
    code = (
        "from perception.signals import ignore_signals; import os; ignore_signals(); os.kill(os.getpid(), 15); print(1)"
    )
    with blocked():
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        child.terminate()
    assert child.communicate(timeout=60) == ("1\n", None) and child.returncode == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    ignore_signals()
    assert all(signal.getsignal(number) == signal.SIG_IGN for number in STOP_SIGNALS)


COMMAND = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_DFL)
from perception.cli.options import run_main

def main():
    if sys.argv[1] == "importing":
        sys.path.insert(0, sys.argv[2])
        import slow
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

run_main(main)
"""
SLOW = """
import time
print("ready", flush=True)
try:
    time.sleep(60)
except BaseException:
    raise ImportError("as C code does that is interrupted")
"""


@pytest.mark.parametrize("state", ["importing", "working"])
@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_command_ends_with_one_line_and_the_usual_code(tmp_path, number, state):
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, "-c", COMMAND, state, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        assert child.stdout.readline() == "ready\n"
        os.kill(child.pid, number)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number and err == "interrupted\n"
    assert out == ("cleaned up\n" if state == "working" else "")


STARTING = """
import os, signal, sys
number, left = int(sys.argv.pop(1)), int(sys.argv.pop(1))
signal.signal(signal.SIGINT, signal.default_int_handler)

def count(frame, event, argument):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), number)

sys.setprofile(count)  # counts calls and returns
from perception.__main__ import main
main("replay")
"""


@pytest.mark.parametrize("calls", [1_000, 5_000, 20_000, 60_000, 200_000, 600_000])
def test_a_command_that_is_ended_while_it_starts_shows_no_traceback(tmp_path, calls):
    arguments = [str(tmp_path), "--checkpoint", "sim", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", STARTING, str(int(signal.SIGINT)), str(calls), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 1
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT, 2)  # 2: it was over before


@pytest.mark.parametrize(("ends", "requeued"), [("notice", True), ("error", False), ("done", False)])
def test_the_job_of_the_documentation_is_requeued_after_a_notice_alone(tmp_path, ends, requeued):
    """With stand-ins for torchrun and the scheduler's command."""
    script = (ROOT / "docs/training.md").read_text().split("```sh\n#!/bin/bash\n")[1].split("```")[0]
    code = {"notice": "1", "error": "1", "done": "0"}[ends]
    stop = "trap 'exit 1' TERM; kill -USR1 $PPID; while :; do sleep 0.01; done" if ends == "notice" else f"exit {code}"
    for name, body in (("torchrun", stop), ("scontrol", f'echo "$@" >> {tmp_path}/asked')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, timeout=60)
    assert (tmp_path / "asked").exists() == requeued and (done.returncode == 0) == (ends != "error")
    assert not requeued or (tmp_path / "asked").read_text() == "requeue 7\n"
