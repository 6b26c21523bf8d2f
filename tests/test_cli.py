"""How a tool ends: exit code and the one line it says."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from perception.cli.options import add_device_option, names, run_main
from perception.device import checked_device
from perception.errors import PerceptionError


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (
            raising(PerceptionError("a.bin: 5 floats were expected,\n  found 4")),
            2,
            "error: a.bin: 5 floats were expected, found 4",
        ),
        (raising(KeyboardInterrupt()), 130, "interrupted"),
        (lambda: Path("/nowhere/a.bin").read_bytes(), 2, "error: /nowhere/a.bin: No such file or directory"),
        (lambda: os.listdir(b"/nowhere"), 2, "error: /nowhere: No such file or directory"),
    ],
)
def test_exit_codes(main, code, line, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_main(main)
    assert (exit_.value.code or 0) == code
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(error):
        run_main(raising(error("of ours")))


def test_a_closed_pipe_is_silent():
    loop = "[print('x' * 80) for _ in range(100000)] and None"
    code = f"from perception.cli.options import run_main; run_main(lambda: {loop})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


def test_names():
    assert names("camera, radar") == ["camera", "radar"] and names("lidar") == ["lidar"]


@pytest.mark.parametrize(
    ("gpu", "asked", "found"),
    [
        (False, "auto", "cpu"),
        (True, "auto", "cuda"),
        (True, "cuda", "cuda"),
        (True, "cpu", "cpu"),
        (False, "cpu", "cpu"),
    ],
)
def test_devices(gpu, asked, found, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: gpu)))
    assert checked_device(asked) == found


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    with pytest.raises(PerceptionError, match="no GPU; cpu and auto work"):
        checked_device("cuda")
    with pytest.raises(PerceptionError, match="auto, cpu or cuda was expected, found 'gpu'"):
        checked_device("gpu")


def test_the_default_device_is_the_best_one():
    parser = argparse.ArgumentParser()
    add_device_option(parser)
    assert parser.parse_args([]).device == "auto"


def test_a_tool_starts_without_torch():
    code = "import sys, perception.cli.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
