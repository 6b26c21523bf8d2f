"""The Triton kernels: in Triton's interpreter against the reference, and compiled for a GPU that need not be there.

The interpreter has to be chosen before Triton is imported, so that this file runs itself in another process.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from perception.grid import BEVGrid

pytest.importorskip("triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GRID = BEVGrid(-5.4, 5.4, -5.4, 5.4, -5, 3, 0.075)

if not INTERPRETED:

    def test_kernels_in_the_interpreter():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
        run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]

    TYPES = {"xyz": "*fp32", "values": "*fp32", "out": "*fp32", "maximum": "*fp32", "key": "*i32", "head": "*i32"}
    TYPES |= {"features": "*fp32", "weight": "*fp32", "table": "*i32"}
    TYPES |= dict.fromkeys(("batch_index", "voxel", "cell", "start", "stop", "count", "index", "first"), "*i64")
    CONSTANTS = {"BLOCK": 1024, "ROWS": 16, "COLUMNS": 32, "INDEXED": True, "MEAN": True}
    CONSTANTS |= {"INNER": 16, "PRECISION": "tf32"}

    def type_of(name: str) -> str:
        return "constexpr" if name in CONSTANTS else "fp32" if name[1:2] == "_" else TYPES.get(name, "i32")

    @pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
    @pytest.mark.parametrize("name", ["_keys", "_heads", "_starts", "_sums", "_maxima", "_products"])
    def test_kernels_compile_for_a_gpu(name, tmp_path, monkeypatch):
        """Without atomic operations, and every division rounded as IEEE 754 asks."""
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        from perception.ops import sparse_conv_triton, triton_kernels

        kernel = getattr(sparse_conv_triton if name == "_products" else triton_kernels, name)
        signature = {argument: type_of(argument) for argument in kernel.arg_names}
        constants = {argument: CONSTANTS[argument] for argument in kernel.arg_names if argument in CONSTANTS}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
        assert not re.search(r"\b(atom|red|div\.full|div\.approx)\.", compiled)
        assert ("div.rn.f32" in compiled) == (name in ("_keys", "_sums"))

else:
    import torch

    from perception.ops import reference, sparse_conv_reference, sparse_conv_triton, triton_kernels
    from perception.ops.sparse_conv import Sites
    from perception.ops.voxelize import cell_axes

    def edge_points(n, rng, axes):
        low, high, size = (np.array([axis[i] for axis in axes]) for i in range(3))
        xyz = rng.uniform(low - size, high + size, (n, 3))
        edges = (low + np.round((xyz - low) / size) * size).astype(np.float32)
        xyz = np.where(rng.uniform(size=(n, 3)) < 0.7, edges, xyz.astype(np.float32))
        xyz[rng.uniform(size=(n, 3)) < 0.01] = rng.choice([np.nan, np.inf, -np.inf])
        return torch.from_numpy(np.column_stack([xyz, rng.uniform(size=(n, 2))]).astype(np.float32))

    @pytest.mark.parametrize(("n", "layers", "batch_size"), [(0, 1, 1), (1, 1, 1), (3000, 1, 3), (2500, 40, 3000)])
    def test_sorts_like_the_reference(n, layers, batch_size):
        """The last of these has more cells than 32 bits can count."""
        rng = np.random.default_rng(n)
        axes = cell_axes(GRID, layers)
        xyz, samples = edge_points(n, rng, axes), torch.from_numpy(rng.integers(0, batch_size, n))
        want = reference.sort_by_cell(xyz, samples, axes, batch_size)
        found = triton_kernels.sort_by_cell(xyz, samples, axes, batch_size)
        for a, b in zip(found[:4], want[:4]):
            assert a.dtype == b.dtype and torch.equal(a, b)
        assert found[4] == want[4] == 0

    def test_all_points_outside():
        xyz, samples = torch.full((5, 3), 99.0), torch.zeros(5, dtype=torch.int64)
        cell, count, order, voxel, _ = triton_kernels.sort_by_cell(xyz, samples, cell_axes(GRID, 1), 1)
        assert len(cell) == len(count) == len(order) == len(voxel) == 0

    def test_samples_that_are_not_in_the_batch_are_counted():
        found = triton_kernels.sort_by_cell(torch.zeros(4, 3), torch.tensor([0, 2, -1, 1]), cell_axes(GRID, 1), 2)
        assert found[2].tolist() == [0, 3] and found[4] == 2

    @pytest.mark.parametrize("channels", [0, 1, 5, 33])
    def test_reduces_like_the_reference(channels):
        rng = torch.Generator().manual_seed(channels)
        count = torch.tensor([1, 7, 1, 100, 2, 16])
        values = torch.randint(-3, 4, (127, channels), generator=rng).float()
        values[5:9] *= float("nan")
        values[110:] = -0.0
        index = torch.randperm(150, generator=rng)[:127]
        of_all = torch.randn(150, channels, generator=rng)
        for mean in (False, True):
            for given, order in ((values, None), (of_all, index)):
                want = reference.segment_sum(given, count, order, mean)
                torch.testing.assert_close(triton_kernels.segment_sum(given, count, order, mean), want, equal_nan=True)
        for found, want in zip(triton_kernels.segment_max(values, count), reference.segment_max(values, count)):
            torch.testing.assert_close(found, want, rtol=0, atol=0, equal_nan=True)

    def test_no_segments():
        empty = torch.zeros(0, dtype=torch.int64)
        assert triton_kernels.segment_sum(torch.zeros(0, 5), empty).shape == (0, 5)
        assert [x.shape for x in triton_kernels.segment_max(torch.zeros(0, 5), empty)] == [(0, 5), (0, 5)]

    @pytest.mark.parametrize(("cells", "channels"), [(0, (3, 4)), (1, (3, 4)), (700, (5, 33)), (700, (40, 16))])
    def test_convolves_like_the_reference(cells, channels, monkeypatch):
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        rng = torch.Generator().manual_seed(cells)
        cell = torch.randperm(2 * 9 * 10 * 11, generator=rng)[:cells].sort().values
        sites, one = Sites(cell, 2, (9, 10, 11)), (1, 1, 1)
        pairs = sparse_conv_triton.find_pairs(sites, sites, (3, 3, 3), one, one)
        features = torch.randn(cells, channels[0], generator=rng)
        weight = torch.randn(27, *channels, generator=rng)
        want = sparse_conv_reference.convolve(features, weight, pairs, cells)
        found = sparse_conv_triton.convolve(features, weight, pairs, cells)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)

    def test_convolves_to_other_cells_and_back():
        """Strided: eight cells of a block to one, and the gradient's way back; rows that nothing reaches are zero."""
        sites, two, none = Sites(torch.tensor([0, 1, 4, 63]), 1, (4, 4, 4)), (2, 2, 2), (0, 0, 0)
        target = Sites(sparse_conv_triton.reached(sites, two, two, two, none), 1, two)
        pairs = sparse_conv_triton.find_pairs(sites, target, two, two, none)
        weight = torch.arange(1.0, 9).view(8, 1, 1)
        features = torch.tensor([[1.0], [10], [100], [1000]])
        assert sparse_conv_triton.convolve(features, weight, pairs, 2).flatten().tolist() == [1 + 20 + 300, 8000]
        back = sparse_conv_triton.convolve(torch.tensor([[1.0], [2]]), weight, [(t, s) for s, t in pairs], 4)
        assert back.flatten().tolist() == [1, 2, 3, 16]
        alone = [(pairs[0][0][:0], pairs[0][1][:0])] * 8
        assert sparse_conv_triton.convolve(features, weight, alone, 3).flatten().tolist() == [0, 0, 0]
