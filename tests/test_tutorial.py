"""docs/tutorial.md runs as it stands, and links in the documents lead somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path):
    command = tmp_path / "bin/perception"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m perception "$@"\n')
    command.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{command.parent}{os.pathsep}{environment['PATH']}"
    blocks = re.findall(r"```(sh|python|yaml)\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    for language, text in blocks:
        if language == "yaml":
            (tmp_path / text.split()[1]).write_text(text)
            continue
        call = ["bash", "-e", "-c", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
    for name in ("runs/my/model.safetensors", "runs/short/config.yaml", "out/my.json", "out/replay/replay.png"):
        assert (tmp_path / name).is_file()
    summary = json.loads((tmp_path / "out/replay/summary.json").read_text())
    assert summary["detections_drawn"] > 0, "a picture without a box shows a newcomer nothing"
    assert (tmp_path / "out/frame.png").stat().st_size > 100_000


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.name}: {target}"
