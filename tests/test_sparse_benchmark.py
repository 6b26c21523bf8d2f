"""The benchmark of sparse convolution: every side does the same work; its peer in another interpreter."""

import sys

import pytest
import torch

from benchmarks import sparse_conv as benchmark
from perception.errors import PerceptionError
from perception.ops.sparse_conv import SparseFeatures


def test_rows_without_a_peer():
    rows = benchmark.submanifold(points=2000, channels=(4,), repeats=1)
    assert [(row["name"], row["peer"]) for row in rows] == [("subm_4", "plain torch"), ("subm_4_kept", "plain torch")]
    assert all(row["ours_ms"] > 0 for row in rows)


@pytest.mark.parametrize("kept", [False, True])
def test_every_side_does_the_same_work(kept):
    sites = benchmark._sites(2000)
    x, weight = SparseFeatures(torch.randn(len(sites.cell), 4), sites), torch.randn(27, 4, 4)
    ours, plain = benchmark._ours(x, weight, kept)(), benchmark._plain_torch(x, weight, kept)()
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_a_peer_that_is_not_there_is_named():
    """This interpreter has no spconv."""
    with pytest.raises(PerceptionError, match="spconv: ModuleNotFoundError"):
        benchmark.submanifold(sys.executable, points=2000, channels=(4,), repeats=1)
