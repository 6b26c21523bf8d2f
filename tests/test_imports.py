"""The architecture: imports run in one direction, optional dependencies stay optional, tools stay thin."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "perception").rglob("*.py"))


def order_of_imports() -> tuple[set[str], ...]:
    """The layers in CONTRIBUTING.md: the fenced block ``imports``, from the bottom to the top."""
    (block,) = re.findall(r"```imports\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    return tuple(set(re.findall(r"\w+", layer)) for layer in block.split("→"))


LAYERS = order_of_imports()
CIRCLES = []
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
    "rclpy",
    "rcl_interfaces",
)


def layer_of(name: str) -> int:
    level = next((i for i, layer in enumerate(LAYERS) if name in layer), None)
    assert level is not None, f"perception.{name} has no place in CONTRIBUTING.md's order of imports yet"
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
    if own in ("__init__", "__main__"):
        return  # the public names, each from where it lives; the command
    for other in parts_of_the_package(path):
        assert layer_of(other) <= layer_of(own), f"perception.{own} must not import perception.{other}"
        assert (own, other) != ("model", "data"), "the model knows frames, not files"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(path: Path, modules: set[str]) -> set[str]:
    """Those of ``modules`` that a file imports; of ``from a import b``, a.b if that is a module and else a."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= whole if whole <= modules else {node.module} | whole
    return names & modules


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of more than one module each of which reaches every other (Tarjan, 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node):
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for other in graph[node]:
            if other not in number:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == number[node]:
            place = stack.index(node)
            found.append(set(stack[place:]))
            del stack[place:]

    for node in graph:
        if node not in number:
            visit(node)
    return [component for component in found if len(component) > 1]


def test_circles_are_found():
    graph = {"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": set(), "f": {"g"}, "g": {"f", "a"}}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["f", "g"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_no_module_imports_itself_in_a_circle():
    """Inside a folder as well; imports in functions and for types only count."""
    names = {module_name(path) for path in MODULES}
    graph = {module_name(path): modules_imported(path, names) - {module_name(path)} for path in MODULES}
    assert graph["perception.cli.demo"] >= {"perception", "perception.replay.pipeline"}
    assert circles(graph) == CIRCLES


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
