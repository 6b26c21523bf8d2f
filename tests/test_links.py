"""An output folder of others: links that were planted in it lead nothing out of it."""

import os

import pytest

from perception.commit import finish_commit, write_files
from perception.files import ResultsError, begin_part, finish_part, make_folder, write_file
from perception.replay import fleet
from perception.replay.job import Job
from perception.train.journal import Journal


@pytest.fixture
def mine(tmp_path):
    """A file outside of the output folder, which must stay what it is."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "mine"
    path.write_text("mine")
    yield path
    assert path.read_text() == "mine"


@pytest.mark.parametrize("plant", [os.symlink, os.link])
@pytest.mark.parametrize("name", ["drive.part.mcap", "drive.mcap"])
def test_part_files_and_files(tmp_path, mine, plant, name):
    plant(mine, tmp_path / "out" / name)
    path = tmp_path / "out/drive.mcap"
    begin_part(path).write_text("recorded")
    finish_part(path)
    assert path.read_text() == "recorded" and not path.is_symlink()
    path.unlink()
    plant(mine, tmp_path / "out" / name)
    write_file(path, b"written")
    assert path.read_text() == "written" and not path.is_symlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_under_the_name_of_a_part_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.part.json")
    write_file(tmp_path / "a.json", b"{}")
    assert (tmp_path / "a.json").read_bytes() == b"{}"


def test_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="found a link"):
        make_folder(tmp_path / "out", "samples", "CAM_FRONT")
    assert not [*(tmp_path / "elsewhere").iterdir()]
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")  # the one that the user names may be one
    assert make_folder(tmp_path / "linked", "samples").is_dir()


def test_a_commit_that_is_a_link_moves_nothing(tmp_path, mine):
    (tmp_path / "others").mkdir()
    (tmp_path / "others/config.yaml").write_text("theirs")
    (tmp_path / "out/.commit").symlink_to(tmp_path / "others")
    finish_commit(tmp_path / "out")
    write_files(tmp_path / "out", {"config.yaml": b"ours"})
    assert (tmp_path / "others/config.yaml").read_text() == "theirs"
    assert (tmp_path / "out/config.yaml").read_text() == "ours"


def test_the_journal_of_a_run(tmp_path, mine):
    pytest.importorskip("tensorboard")
    journal = Journal(tmp_path / "out", 0, 0)
    (tmp_path / "out/log.jsonl").unlink()
    (tmp_path / "out/log.jsonl").symlink_to(mine)
    with pytest.raises(ResultsError, match=r"log\.jsonl: cannot be written"):
        journal.write("steps", 1, {})
    journal.close()


def test_results_of_a_batch(tmp_path, mine):
    (tmp_path / "out/drive").symlink_to(tmp_path)
    job = Job("drive.mcap", str(tmp_path / "out/drive"), "sim")
    with pytest.raises(ResultsError, match="found a link"):
        fleet.main([job, job], tmp_path / "out")
