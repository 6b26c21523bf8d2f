"""One run at a time writes to a folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perception.files import ResultsError
from perception.lock import InUseError, locked

ROOT = Path(__file__).parent.parent
HOLDER = """
import sys, time
from pathlib import Path
from perception.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_over(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUseError, match=r"out: another run is writing to it; wait for its end, or choose another"):
            with locked(tmp_path / "out"):
                pass
        with locked(tmp_path):  # another folder
            pass
        holder.kill()  # a lock ends with its process
        holder.wait()
        with locked(tmp_path / "out"):
            assert list((tmp_path / "out").iterdir()) == []


def test_two_runs_in_one_process(tmp_path):
    with locked(tmp_path):
        with pytest.raises(InUseError), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


FORKING = """
import os, sys, time
from pathlib import Path
from perception.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_processes_that_outlive_a_run_do_not_hold_its_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        child = int(holder.stdout.readline())
        holder.kill()
        holder.wait()
        with locked(tmp_path):
            os.kill(child, signal.SIGKILL)


def test_a_folder_in_which_nothing_was_written_goes(tmp_path):
    with locked(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert (tmp_path / "a/b/file").exists()
    with pytest.raises(ResultsError, match=r"file: cannot be written: (File exists|Not a directory)"):
        with locked(tmp_path / "a/b/file"):
            pass
