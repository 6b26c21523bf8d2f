"""docs/tutorial.md runs as it stands, and links in the documents lead somewhere."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception.config import load_config
from perception.data.nuscenes_writer import NuScenesWriter
from perception.geometry import SE3
from perception.sample import Boxes3D, Frame, LidarCloud
from perception.train.source import training_frames, validation_frames

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMAND = re.compile(
    r"^ *(?:.*torchrun .* -m )?perception (train|pretrain|objects) (\w[\w./-]*)((?:'[^']*'|[^'#`\n])*)", re.MULTILINE
)
CONVERTED = ("data/own", "data/unlabelled")  # folders that ``convert`` has made of logs


@pytest.mark.long
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


def documented():
    """File, command, config and overrides, wherever they can be loaded as they stand."""
    for path in [*DOCUMENTS, *sorted((ROOT / "perception/cli").glob("*.py"))]:
        for command, config, rest in COMMAND.findall(path.read_text().replace("\\\n", " ")):
            if "$" not in rest and (not config.endswith(".yaml") or (ROOT / config).is_file()):
                words = shlex.split(rest)
                yield path.name, command, config, [word for word in words if re.match(r"[a-z]\w*\.\w+.*=", word)]


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    car = Boxes3D(np.array([[9.0, 0, 0]]), np.ones((1, 3)), np.zeros(1), np.zeros((1, 2)), np.zeros(1, int))
    cloud = LidarCloud(np.array([[9, 0, 0, 1, 0]], np.float32))
    with NuScenesWriter(root) as writer:
        writer.add(Frame("0", 10**9, SE3(), lidar=cloud, boxes=car, scene="drive"))
    return root


def test_documented_configs_load_with_their_overrides_and_open_what_they_name(converted, monkeypatch):
    monkeypatch.chdir(ROOT)
    opened = []
    for name, command, config_name, overrides in documented():
        config = load_config(config_name, overrides)
        if config.data.root in CONVERTED:
            config = replace(config, data=replace(config.data, root=str(converted)))
            assert len(training_frames(config, None, annotated=command != "pretrain")) == 1
            if command == "train":
                assert validation_frames(config, None) is None and not config.augment.paste
            opened.append((name, command))
    assert opened == [("own-data.md", "train"), ("training.md", "pretrain"), ("pretrain.py", "pretrain")]
    assert sum(1 for _ in documented()) > 20
