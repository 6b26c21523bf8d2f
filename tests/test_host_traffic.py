"""On a GPU, a number that Python asks for, or a list that becomes a tensor, stops the host until the GPU is done.

There is none of either between a batch and its objects, but for the kernels that voxelize (perception/ops), which ask
once a sensor how many voxels there are. This is counted on a CPU, where the same operations are seen.
"""

import traceback
from collections import Counter

import pytest
import torch
from test_decoder import DECODER
from test_model import make_frame, small_config
from torch.utils._python_dispatch import TorchDispatchMode

from perception.model.build import build
from perception.ops import bev_pool

ASKED = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "_unique2", "equal"}
MADE = {"lift_fresh"}  # torch.tensor([...]), tensor.new_tensor([...]), tensor[[0, 1]]


class Traffic(TorchDispatchMode):
    """Counts such operations by the line of perception/model that they come from."""

    def __init__(self):
        super().__init__()
        self.lines: Counter = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.overloadpacket.__name__
        masks = name in ("index", "index_put", "index_put_") and [
            index for index in args[1] if index is not None and index.dtype == torch.bool
        ]
        if name in ASKED | MADE or masks:
            ours = [line for line in traceback.extract_stack() if "/perception/" in line.filename][-1]
            if "/perception/model/" in ours.filename:
                self.lines[f"{ours.filename}:{ours.lineno} {ours.line}: {name}"] += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("depth_network", ["focal", "calibrated"])
def test_nothing_goes_between_host_and_device_from_a_batch_to_its_objects(monkeypatch, depth_network):
    monkeypatch.setattr(bev_pool, "of_points_inside", bev_pool.of_all_points)  # as on a GPU
    overrides = ["decoder.memory=5", f"encoders.camera.depth_network={depth_network}", "encoders.radar.moved=true"]
    model = build(small_config(*DECODER, *overrides)).eval()
    with torch.no_grad():
        first, second = model.prepare([make_frame("a")]), model.prepare([make_frame("b", 1)])
        second.moment.timestamp_ns[:] = 500_000_000
        memory = model.remember(model(first), first)
        with Traffic() as traffic:
            model.remember(model(second, memory), second)
    assert not traffic.lines


def test_such_traffic_is_seen():
    model = build(small_config()).eval()
    with torch.no_grad(), Traffic() as traffic:
        model.decode(model(model.prepare([make_frame()])))  # detections are the host's
    assert traffic.lines
