"""How a tool ends: exit code and the one line it says."""

import subprocess
import sys

import pytest

from perception.cli import run_main
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
    ],
)
def test_exit_codes(main, code, line, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_main(main)
    assert (exit_.value.code or 0) == code
    assert capsys.readouterr().err.strip() == line


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 // 0)


def test_a_closed_pipe_is_silent():
    code = "from perception.cli import run_main; run_main(lambda: [print('x' * 80) for _ in range(100000)] and None)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1
