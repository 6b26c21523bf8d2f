"""docs/embedding.md runs as it stands: an own LiDAR and one camera, from an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/embedding.md").read_text()


@pytest.mark.slow
def test_the_loop_runs(tmp_path):
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, re.DOTALL)
    assert [name for name, _ in blocks] == ["rig.yaml", "driver.py", "live.py"]
    for name, text in blocks:
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "live.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *results, health = done.stdout.splitlines()
    assert results and all(re.fullmatch(r"\d+ tracks, -?[\d.]+ s old, without nothing", line) for line in results)
    assert re.match(r"Health\(level='(OK|WARN|STALE)'", health) and "received=60" in health


def test_the_loop_is_short():
    (loop,) = re.findall(r"# live\.py\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in loop.splitlines() if line.strip()]) <= 20


FAULTS = TEXT.split("\n## Faults\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("counted", sorted(set(re.findall(r"\| `([a-z][^`|]+)`", FAULTS))))
def test_what_the_table_of_faults_counts_is_counted_so(counted):
    sources = "".join(path.read_text() for path in (ROOT / "perception").rglob("*.py"))
    assert counted.removesuffix(" NAME") in sources
