"""The wheel and the sdist: what is in them, and that the command works where nothing else of the project is."""

import email
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import perception.errors

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def run(*command, cwd: Path) -> str:
    """Standard output of a command that ends well, without this checkout on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel_contents(path: Path) -> dict[str, int]:
    """Check sums by name."""
    with zipfile.ZipFile(path) as wheel:
        return {info.filename: info.CRC for info in wheel.infolist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, the wheel made of the sdist, and in tree/ the wheel made of the sources themselves.

    The sources are copied first: a build folder of an earlier version would get into the wheel.
    """
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    for name in ("perception", "configs", "tests", "tools", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    pip_wheel = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    run(sys.executable, *pip_wheel, folder / "tree", source, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_its_configs_and_its_checkpoints_and_nothing_else(wheel):
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "perception").rglob("*.py")}
    expected |= {str(path.relative_to(ROOT)) for path in (ROOT / "perception/checkpoints").rglob("*") if path.is_file()}
    expected |= {f"perception/configs/{path.name}" for path in (ROOT / "configs").iterdir()}
    expected |= {"perception/py.typed"}
    assert {"perception/checkpoints/sim/model.safetensors", "perception/configs/sim.yaml"} < expected
    found = {name for name in wheel_contents(wheel) if ".dist-info/" not in name}
    assert found == expected
    assert not {name for name in found if "bench" in Path(name).stem and name.endswith(".py")}


def test_the_metadata(wheel):
    with zipfile.ZipFile(wheel) as opened:
        (folder,) = {name.split("/")[0] for name in opened.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(opened.read(f"{folder}/METADATA"))
        assert "perception = perception.__main__:main" in opened.read(f"{folder}/entry_points.txt").decode()
    assert (metadata["Name"], metadata["Version"]) == ("perception-bev", perception.__version__)
    assert metadata["License-Expression"] == "MIT" and metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# perception")
    labels = {value.split(",")[0] for value in metadata.get_all("Project-URL")}
    assert labels == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert "Typing :: Typed" in metadata.get_all("Classifier") and metadata["Keywords"]
    own = [value for value in metadata.get_all("Requires-Dist") if value.startswith("perception")]
    assert own and all(value.startswith("perception-bev[") for value in own), "extras of the unrelated package"


def test_the_sdist_builds_the_same_wheel(built, wheel):
    (of_the_tree,) = (built / "tree").glob("*.whl")
    assert wheel_contents(of_the_tree) == wheel_contents(wheel)
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        tops = {name.split("/")[1] for name in opened.getnames() if "/" in name}
    assert not tops & {"tests", "tools", "docs"}
    assert {"perception", "configs", "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md"} < tops


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Runs a program of an environment that has the wheel, from a folder of its own; returns what it prints.

    The environment is empty but for the wheel; its dependencies are those of this interpreter, by path.
    """
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "env", symlinks=True)
    python = folder / "env/bin/python"
    pip_install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    run(sys.executable, *pip_install, cwd=folder)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(paths))
    (folder / "elsewhere").mkdir()

    def installed(program, *arguments):
        return run(folder / "env/bin" / program, *arguments, cwd=folder / "elsewhere")

    installed.folder = folder / "elsewhere"
    installed.package = packages / "perception"
    return installed


def test_the_installed_package_is_not_the_checkout(installed):
    code = "import perception; print(perception.__file__)"
    assert installed("python", "-c", code).strip() == str(installed.package / "__init__.py")
    assert installed("perception", "--version") == f"perception {perception.__version__}\n"
    assert installed("python", "-m", "perception", "--version") == f"perception {perception.__version__}\n"


def test_hints_name_the_distribution(installed):
    code = "from perception.errors import missing_extra; print(missing_extra('logs', 'MCAP needs an extra'))"
    assert installed("python", "-c", code) == 'MCAP needs an extra: pip install "perception-bev[logs]"\n'
    assert perception.errors.missing_extra("logs", "a") == 'a: pip install -e ".[logs]"'


def test_configs_are_found_by_name(installed):
    code = "from perception.config import find_config; print(find_config('sim'), find_config('configs/scene.yaml'))"
    configs = installed.package / "configs"
    assert installed("python", "-c", code) == f"{configs / 'sim.yaml'} {configs / 'scene.yaml'}\n"


@pytest.mark.long
def test_a_drive_is_simulated_evaluated_and_replayed_from_another_folder(installed):
    pytest.importorskip("open3d", reason="the simulator needs the extra 'sim'")
    size = ["--scenes", "1", "--seconds", "2", "--image-size", "352x198", "--weather", "day", "--workers", "1"]
    installed("perception", "-q", "simulate", "--out", "drive", *size)
    common = ["--checkpoint", "sim", "--device", "cpu"]
    printed = installed("perception", "evaluate", *common, "--root", "drive", "--json", "out/metrics.json")
    report = json.loads((installed.folder / "out/metrics.json").read_text())
    assert report["frames"] == 4 and "camera+radar+lidar" in printed
    assert (installed.folder / "out/metrics.config.yaml").is_file()
    printed = installed("perception", "replay", "drive", *common, "--out", "out/replay", "--outputs", "none")
    summary = json.loads((installed.folder / "out/replay/summary.json").read_text())
    assert f"sha256 {summary['detections_sha256']}" in printed and summary["detections"] > 0
    assert "LIDAR_TOP" in installed("perception", "replay", "info", "drive")
