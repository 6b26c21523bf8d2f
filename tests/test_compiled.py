"""Kernels are compiled once and kept; who waits is told; where nothing can be kept they run all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = """
import logging
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
import numpy as np
from perception.eval.metric_kernel import match_nearest
from perception.ops.compiled import compiled

@compiled
def double(x):
    return 2 * x

@compiled(fastmath=True)
def triple(x):
    return 3 * x

print(double(3), double(1.5), triple(2))
one = np.zeros(1, np.int64)
for _ in range(2):
    print(match_nearest(np.array([0, 1]), np.zeros((1, 2)), np.zeros((1, 2)), one, np.array([1.0])))
"""


@pytest.fixture
def kernels(tmp_path):
    """Runs CODE, a script of three kernels; returns its log lines."""
    (tmp_path / "script.py").write_text(CODE)

    def run(**environment):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        command = [sys.executable, tmp_path / "script.py"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout.split("\n", 1)[0]) == (0, "6 3.0 6"), done.stderr
        assert done.stdout.count("[[0]]") == 2
        return done.stderr.splitlines()

    return run


def test_a_compilation_is_told_once_and_kept(kernels, tmp_path):
    told = "INFO compiling kernels, which takes seconds; kept for later runs where a cache can be written"
    assert kernels(NUMBA_CACHE_DIR=str(tmp_path / "cache")) == [told]
    assert list((tmp_path / "cache").rglob("*.nbc"))
    assert kernels(NUMBA_CACHE_DIR=str(tmp_path / "cache")) == []


def test_without_a_folder_for_the_cache_kernels_run(kernels):
    """What numba sees in a read-only installation with an unwritable home."""
    nowhere = {"NUMBA_CACHE_LOCATOR_CLASSES": "_UserProvidedCacheLocator", "NUMBA_CACHE_DIR": "/proc/nowhere"}
    warning, told = kernels(**nowhere)
    assert warning.startswith("WARNING compiled kernels cannot be kept") and "NUMBA_CACHE_DIR" in warning
    assert told.startswith("INFO compiling kernels")


def test_every_kernel_of_the_package_is_declared_in_one_way():
    users = [path for path in (ROOT / "perception").rglob("*.py") if "njit" in path.read_text()]
    assert [path.name for path in users] == ["compiled.py"]
