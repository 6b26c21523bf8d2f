"""The command ``perception``: its words, its options, its exit codes and the one line it says about a mistake."""

import argparse
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

import perception
from perception.cli import COMMANDS, run
from perception.cli.options import add_device_option, names, run_main
from perception.config import ConfigError, find_config
from perception.device import checked_device
from perception.errors import PerceptionError
from perception.model.checkpoint import find_checkpoint

ROOT = Path(__file__).parents[1]


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (
            raising(PerceptionError("a.bin: 5 floats were expected,\n  found 4")),
            2,
            "error: a.bin: 5 floats were expected, found 4",
        ),
        (raising(KeyboardInterrupt()), 130, "interrupted"),
        (lambda: Path("/nowhere/a.bin").read_bytes(), 2, "error: /nowhere/a.bin: No such file or directory"),
        (lambda: os.listdir(b"/nowhere"), 2, "error: /nowhere: No such file or directory"),
    ],
)
def test_exit_codes(main, code, line, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_main(main)
    assert (exit_.value.code or 0) == code
    assert capsys.readouterr().err.strip() == line


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError])
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(error):
        run_main(raising(error("of ours")))


def test_a_closed_pipe_is_silent():
    loop = "[print('x' * 80) for _ in range(100000)] and None"
    code = f"from perception.cli.options import run_main; run_main(lambda: {loop})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 1


def test_names():
    assert names("camera, radar") == ["camera", "radar"] and names("lidar") == ["lidar"]


def torch_with(gpus: int) -> SimpleNamespace:
    return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: gpus > 0, device_count=lambda: gpus))


@pytest.mark.parametrize(
    ("gpus", "asked", "found"),
    [
        (0, "auto", "cpu"),
        (1, "auto", "cuda"),
        (1, "cuda", "cuda"),
        (2, "cuda:0", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
        (1, "cpu", "cpu"),
        (0, "cpu", "cpu"),
    ],
)
def test_devices(gpus, asked, found, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_with(gpus))
    assert checked_device(asked) == found


@pytest.mark.parametrize(
    ("gpus", "asked", "message"),
    [
        (0, "cuda", "cuda was asked for, but torch finds no GPU; cpu and auto work"),
        (0, "cuda:0", "cuda:0 was asked for, but torch finds no GPU"),
        (2, "cuda:2", "one of cuda:0 to cuda:1 was expected, found 'cuda:2'"),
        (1, "gpu", "auto, cpu or cuda was expected, found 'gpu'"),
        (1, "cuda:", "auto, cpu or cuda was expected, found 'cuda:'"),
        (1, "cuda:-1", "auto, cpu or cuda was expected, found 'cuda:-1'"),
        (1, "cpu:0", "auto, cpu or cuda was expected, found 'cpu:0'"),
    ],
)
def test_a_device_that_is_not_there(gpus, asked, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch_with(gpus))
    with pytest.raises(PerceptionError, match=message):
        checked_device(asked)


def test_the_default_device_is_the_best_one():
    parser = argparse.ArgumentParser()
    add_device_option(parser)
    assert parser.parse_args([]).device == "auto"


def perception_(*arguments, **options) -> subprocess.CompletedProcess:
    """``python -m perception ...`` in a process of its own."""
    command = [sys.executable, "-m", "perception", *map(str, arguments)]
    options = {"cwd": ROOT, **options}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_version_load_nothing_heavy(arguments):
    code = (
        "import sys, perception.cli\n"
        "heavy = {'torch', 'numba', 'tqdm', 'open3d', 'rosbags', 'msgspec'}\n"
        "try: perception.cli.run(sys.argv[1:])\n"
        "finally: print('loaded:', *sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "loaded:", "")


def test_version_names_the_package():
    done = perception_("--version")
    assert (done.returncode, done.stdout) == (0, f"perception {perception.__version__}\n")


def test_help_names_every_command_and_every_command_has_a_module_and_a_script(capsys):
    with pytest.raises(SystemExit):
        run(["--help"])
    out = capsys.readouterr().out
    shared = {"__init__", "options", "configs"}
    assert {path.stem for path in (ROOT / "perception/cli").glob("*.py")} - shared == {
        name.replace("-", "_") for name in COMMANDS
    }
    for name, what in COMMANDS.items():
        assert f"  {name} " in out and what in out
        script = "ros2_node" if name == "ros2" else name.replace("-", "_")
        assert (ROOT / f"tools/{script}.py").is_file() or name in ("info", "convert", "compare")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train"], ["-q", "-v", "train", "sim"]])
def test_an_incomplete_command_shows_its_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        run(arguments)
    assert end.value.code == 2 and capsys.readouterr().err.startswith("usage: perception")


def test_openmp_threads_do_not_spin(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    with pytest.raises(SystemExit):
        run_main(lambda: None, keeps_memory=False)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize(("option", "notes"), [("-q", 0), (None, 1), ("-v", 2)])
@pytest.mark.parametrize("terminal", [False, True])
def test_verbosity(where, option, notes, terminal):
    """A stand-in for a command that logs, shows a bar and a result; in a process, for tqdm reads its setting once.

    The bar is for terminals only: in a file it would be a line for every change.
    """
    bar = terminal and option != "-q"
    code = """
import logging, sys, types
import perception.cli as cli

def command(args):
    from tqdm import tqdm
    for level in ("debug", "info", "warning"):
        getattr(logging.getLogger("perception.data"), level)("said %s", level)
        getattr(logging.getLogger("other"), level)("other %s", level)
    assert len(list(tqdm([1], desc="bar"))) == 1
    print("result", args.progress)

sys.modules["perception.cli.demo"] = types.SimpleNamespace(__doc__="", add_arguments=lambda parser: None, run=command)
cli.main()
"""
    words = {"before": [option, "demo"], "after": ["demo", option]}[where] if option else ["demo"]
    ours, its = pty.openpty() if terminal else os.pipe()
    if terminal:
        termios.tcsetwinsize(its, (24, 80))
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=its, text=True)
    said = os.read(ours, 65536).decode()
    os.close(ours), os.close(its)
    assert (done.returncode, done.stdout) == (0, f"result {bar}\n")
    assert [f"said {level}" in said for level in ("debug", "info", "warning")] == [notes > 1, notes > 0, True]
    assert "other debug" not in said and "other warning" in said
    assert ("bar: 100%" in said) == bar


def test_verbose_shows_where_an_error_comes_from():
    quiet, verbose = perception_("train", "sim", "train.epoch=3"), perception_("train", "sim", "train.epoch=3", "-v")
    line = "error: override 'train.epoch=3': unknown key 'train.epoch'; the closest valid key is 'train.epochs'"
    assert quiet.returncode == verbose.returncode == 2
    assert quiet.stderr.splitlines() == [line] and verbose.stderr.splitlines()[-1] == line
    assert "load_config" in verbose.stderr


def test_the_script_of_a_command_is_the_command(tmp_path):
    script = [sys.executable, ROOT / "tools/train.py", "nothing"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOT})
    assert (done.returncode, done.stderr) == (2, perception_("train", "nothing", cwd=ROOT).stderr)


SHIPPED = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", ["{}", "{}.yaml", "configs/{}.yaml"])
@pytest.mark.parametrize("config", SHIPPED)
def test_a_shipped_config_is_found_from_any_folder(name, config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name.format(config)).resolve() == ROOT / f"configs/{config}.yaml"


def test_a_file_goes_before_a_shipped_config_of_its_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/sim.yaml").write_text("train: {epochs: 1}")
    (tmp_path / "sim").mkdir()
    assert find_config("configs/sim.yaml") == Path("configs/sim.yaml")
    assert find_config("sim") == ROOT / "configs/sim.yaml"


@pytest.mark.parametrize("name", ["similar", "elsewhere/sim.yaml", "sim.yml", ""])
def test_a_config_that_is_not_there_names_those_that_are(name):
    with pytest.raises(ConfigError) as error:
        find_config(name)
    assert str(error.value) == f"config '{name}': a YAML file, or a shipped name ({', '.join(SHIPPED)}), was expected"


@pytest.mark.parametrize(
    ("arguments", "out"),
    [(["sim"], "runs/sim"), (["configs/scene.yaml"], "runs/scene"), (["sim", "--out", "here"], "here")],
)
def test_results_go_to_a_folder_named_after_the_config(arguments, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr("perception.train.run.train", lambda *given: calls.append(given) or True)
    assert run(["train", *arguments, "train.epochs=7", "--device", "cpu"]) == 0
    [(config, folder, resume, device)] = calls
    assert (config.train.epochs, folder, resume, device) == (7, Path(out), False, "cpu")


def test_an_interrupted_training_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("perception.train.run.train", lambda *given: False)
    assert run(["train", "sim", "--device", "cpu"]) == 130


@pytest.mark.parametrize("given", [[], ["--report", "a"], ["--json", "a"], ["--fit", "a", "--json", "b"]])
def test_calibrate_wants_to_know_what_to_do(given):
    with pytest.raises(PerceptionError, match="--fit ROOT, or --report ROOT with --json FILE, or both"):
        run(["calibrate", "--checkpoint", "sim", *given])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--out: a folder was expected, for the shipped checkpoint 'sim' stays as it is"),
        (["--out", str(find_checkpoint("sim"))], "the shipped checkpoint 'sim' stays as it is"),
    ],
)
def test_a_shipped_checkpoint_is_never_calibrated_in_place(tmp_path, given, message):
    weights = find_checkpoint("sim") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    with pytest.raises(PerceptionError, match=message):
        run(["calibrate", "--checkpoint", "sim", "--fit", str(tmp_path), *given])
    assert weights.stat().st_mtime_ns == before
