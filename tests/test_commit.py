"""Files that belong together are of one state, whenever the process that writes them is killed."""

import hashlib
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from perception.commit import DamagedFileError, current, finish_commit, read_file, write_files
from perception.files import ResultsError

ROOT = Path(__file__).parent.parent


def state_of(folder: Path) -> set[bytes]:
    return {read_file(folder / name)[:1] for name in ("a", "b")}


def test_files_are_replaced_and_others_stay(tmp_path):
    write_files(tmp_path / "new/folder", {"a": b"1"})
    write_files(tmp_path / "new/folder", {"b": b"2"})
    write_files(tmp_path / "new/folder", {"a": b"3"})
    folder = tmp_path / "new/folder"
    assert sorted(path.name for path in folder.iterdir()) == ["SHA256SUMS", "a", "b"]
    assert read_file(folder / "a") == b"3" and read_file(folder / "b") == b"2"
    # The digests of 3 and 2, as sha256sum prints them.
    three, two = (hashlib.sha256(value).hexdigest() for value in (b"3", b"2"))
    assert (folder / "SHA256SUMS").read_text() == f"{three}  a\n{two}  b\n"


KILLED = """
import os, sys
from pathlib import Path
from perception import commit

left = int(sys.argv[2])

def counted(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return call(*args, **kwargs)
    return wrapped

for name in ("write", "fsync", "link"):
    setattr(os, name, counted(getattr(os, name)))
for name in ("mkdir", "rename", "replace", "rmdir"):
    setattr(Path, name, counted(getattr(Path, name)))
if sys.argv[3] == "named":
    del os.O_TMPFILE
commit.write_files(Path(sys.argv[1]), {"a": b"2a", "b": b"2b"})
"""


@pytest.mark.parametrize("how", ["unnamed", "named"])
def test_killed_before_any_system_call_all_files_are_of_one_state(tmp_path, how):
    """The process is killed before the first, the second, ... call that writes, until it gets through."""
    states = []
    for calls in itertools.count():
        folder = tmp_path / str(calls)
        write_files(folder, {"a": b"1a", "b": b"1b"})
        done = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(calls), how], cwd=ROOT, timeout=60)
        states.append(state_of(folder))
        finish_commit(folder)
        assert state_of(folder) == states[-1]
        assert {path.name for path in folder.iterdir()} == {"SHA256SUMS", "a", "b"}
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    new = states.index({b"2"})
    assert 5 < new < calls and states == [{b"1"}] * new + [{b"2"}] * (calls + 1 - new)


def test_what_a_killed_process_left_does_not_disturb_the_next(tmp_path):
    write_files(tmp_path, {"a": b"1"})
    (tmp_path / ".next").mkdir()
    (tmp_path / ".next/a").write_bytes(b"half")
    (tmp_path / ".commit").mkdir()
    (tmp_path / ".commit/b").write_bytes(b"2")
    assert current(tmp_path / "b") == tmp_path / ".commit/b" and read_file(tmp_path / "b") == b"2"
    write_files(tmp_path, {"c": b"3"})
    assert {path.name for path in tmp_path.iterdir()} == {"SHA256SUMS", "a", "b", "c"}


def test_every_flipped_bit_is_noticed(tmp_path):
    write_files(tmp_path, {"a": b"\x00\xff"})
    for byte, bit in itertools.product(range(2), range(8)):
        data = bytearray(b"\x00\xff")
        data[byte] ^= 1 << bit
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(DamagedFileError, match=r"a: the SHA-256 that SHA256SUMS lists was expected"):
            read_file(tmp_path / "a")
    (tmp_path / "SHA256SUMS").unlink()
    assert read_file(tmp_path / "a") == bytes(data)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
def test_what_cannot_be_written_leaves_the_earlier_files(tmp_path, monkeypatch):
    write_files(tmp_path, {"a": b"1"})
    real, opened = os.open, []

    def second_is_on_a_full_disk(path, flags, *mode, **options):
        opened.append(path)
        return real("/dev/full", os.O_WRONLY) if len(opened) == 2 else real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", second_is_on_a_full_disk)
    with pytest.raises(ResultsError, match=r"b: cannot be written: No space left on device"):
        write_files(tmp_path, {"a": b"2", "b": b"2"})
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"SHA256SUMS", "a"} and read_file(tmp_path / "a") == b"1"
