"""The architecture: imports run in one direction, optional dependencies stay optional, tools stay thin."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "perception").rglob("*.py"))
# A module may import its own layer and the layers above it in this list.
LAYERS = (
    {"errors"},
    {"geometry", "grid", "files", "text", "seeding", "device", "task", "config"},
    {"sample"},
    {"batch", "health", "viz", "tracking", "ops"},
    {"data", "sim"},
    {"logs", "model"},
    {"train", "eval"},
    {"replay", "stream", "export"},
    {"cli"},
)
OPTIONAL = (
    "open3d",
    "nuscenes",
    "matplotlib",
    "tensorboard",
    "numba",
    "msgspec",
    "transformers",
    "mcap",
    "google",
    "rosbags",
    "foxglove",
    "zstandard",
    "lz4",
    "isal",
    "rerun",
    "av",
    "ray",
    "pandas",
    "onnx",
    "triton",
)


def layer_of(name: str) -> int:
    level = next((i for i, layer in enumerate(LAYERS) if name in layer), None)
    assert level is not None, f"perception.{name} has no place in LAYERS yet"
    return level


def imported(path: Path) -> set[str]:
    """Every dotted module that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute in this package"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_of_the_package(path: Path) -> set[str]:
    """The modules and folders directly below perception/ that a file imports."""
    below = {name.split(".")[1] for name in imported(path) if name.startswith("perception.")}
    return {
        name for name in below if (ROOT / "perception" / name).is_dir() or (ROOT / f"perception/{name}.py").is_file()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_in_one_direction(path):
    own = path.relative_to(ROOT / "perception").with_suffix("").parts[0]
    if own == "__init__":
        return  # it names the public face, each name from where it lives
    for other in parts_of_the_package(path):
        assert layer_of(other) <= layer_of(own), f"perception.{own} must not import perception.{other}"
        assert (own, other) != ("model", "data"), "the model knows frames, not files"


def test_torchvision_is_imported_nowhere():
    files = [*MODULES, *(ROOT / "tools").glob("*.py"), *(ROOT / "tests").glob("*.py")]
    assert [path for path in files if "torchvision" in {name.split(".")[0] for name in imported(path)}] == []


def test_importing_the_package_loads_no_optional_dependency():
    code = "import sys, perception, perception.config; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) & {"torch", *OPTIONAL} == set()


def test_every_public_name_is_documented_in_all():
    import perception

    assert {"CameraImage", "LidarCloud", "RadarCloud", "Task", "HealthMonitor", "draw_frame"} <= set(perception.__all__)
    for name in perception.__all__:
        assert getattr(perception, name).__doc__ or name in ("ATTRIBUTES", "CLASSES"), name
    assert set(perception.__all__) <= set(dir(perception))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = perception.nonsense


@pytest.mark.parametrize("path", sorted((ROOT / "tools").glob("*.py")), ids=lambda path: path.name)
def test_tools_are_thin(path):
    assert len(path.read_text().splitlines()) < 60
