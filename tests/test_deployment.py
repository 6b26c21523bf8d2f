"""Dockerfile and systemd unit, as far as that goes without an engine; and the package where nothing can be written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "docs/examples/perception.service"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, with their arguments on one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def test_the_base_is_pinned():
    values = dict(argument.split("=", 1) for argument in of("ARG"))
    bases = [base.split()[0].replace("${PYTHON}", values["PYTHON"]) for base in of("FROM")]
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"python(:\d+\.\d+\.\d+-slim-\w+|@sha256:[0-9a-f]{64})", base), base


def test_the_user_is_not_root_and_all_that_is_written_goes_to_tmp():
    names = [name for name, _ in instructions()]
    (user,) = of("USER")
    assert int(user.split(":")[0]) > 0 and f"--uid {user.split(':')[0]}" in " ".join(of("RUN"))
    assert names.index("USER") > max(i for i, name in enumerate(names) if name in ("RUN", "COPY"))
    environment = dict(pair.split("=") for pair in " ".join(of("ENV")).split())
    for name in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        assert environment[name].startswith("/tmp")
    assert of("WORKDIR")[-1] == "/tmp" and environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_no_compiler_is_installed():
    text = " ".join(of("RUN"))
    assert not re.search(r"\b(apt|apt-get|apk|gcc|g\+\+|clang|build-essential|conda)\b", text)
    assert "-c /wheels/constraints.txt" in text and "--no-cache-dir" in text


def test_what_is_copied_exists_and_is_not_ignored():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [path for line in of("COPY") if not line.startswith("--from") for path in line.split()[:-1]]
    assert set(copied) == set(allowed)
    for path in copied:
        assert (ROOT / path).exists(), path


def test_the_commands_are_those_of_the_node():
    (entry,), (health,), (command,) = of("ENTRYPOINT"), of("HEALTHCHECK"), of("CMD")
    script = of("COPY")[-1].split()
    assert entry == f'["python", "{script[1]}"]' and f'CMD ["python", "{script[1]}", "--check"]' in health
    assert of("STOPSIGNAL") == ["SIGTERM"]
    source = (ROOT / script[0]).read_text()
    for option in re.findall(r'"(--[a-z]+)"', health + command):
        assert f'add_argument("{option}"' in source


def unit() -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_writes_to_its_cache_alone_and_has_a_watchdog():
    settings = unit()
    assert settings["Type"] == ["notify"] and int(settings["WatchdogSec"][0]) > 1 and settings["Restart"] == ["always"]
    assert settings["ProtectSystem"] == ["strict"] and settings["DynamicUser"] == ["yes"]
    environment = dict(pair.split("=") for line in settings["Environment"] for pair in line.split())
    for name in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        assert environment[name].startswith(f"/var/cache/{settings['CacheDirectory'][0]}")
    assert "MemoryDenyWriteExecute" not in settings  # numba writes what it executes
    node = (ROOT / "docs/examples/zenoh_node.py").read_text()
    assert 'notify("READY=1")' in node and 'notify("WATCHDOG=1")' in node


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_understands_the_unit(tmp_path):
    text = UNIT.read_text().replace("/opt/perception/bin/python", sys.executable)  # which is to exist
    (tmp_path / "perception.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "perception.service")]
    done = subprocess.run(command, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "perception.service" in line]
    assert said == [] and done.returncode == 0, done.stderr


READ_ONLY = """
import errno, os, sys

def read_only(event, arguments):
    '''As a read-only file system has it.'''
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    if event == "open" and arguments[0] != os.devnull and arguments[2] & writes or event == "os.mkdir":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(arguments[0]))

sys.addaudithook(read_only)
import perception
from perception.logs.measurements import Assembly
from perception.logs.rig import CloudSource, CameraSource, Rig
from perception.warmup import made_up_frames

rig = Rig(reference="ROOF", cameras={"FRONT": CameraSource(image="FRONT", intrinsics=[500.0, 500, 320, 180])},
          lidars={"ROOF": CloudSource(cloud="ROOF")}, radars={"NOSE": CloudSource(cloud="NOSE")})
frame, _ = made_up_frames(rig, Assembly())
assert set(frame.sensors) == {"camera", "lidar", "radar"}
print("detections", len(perception.load("sim").detect(frame)))
"""


@pytest.mark.slow
def test_it_detects_where_nothing_can_be_written_and_no_program_is_on_the_path(tmp_path):
    environment = {"PATH": str(tmp_path), "HOME": "/nonexistent", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    command = [sys.executable, "-B", "-c", READ_ONLY]
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"detections \d+\n", done.stdout)
    assert "compiled kernels cannot be kept" in done.stderr
