"""bfloat16 lowers the network's numbers, never where things are: metres and pixels stay exact."""

import math

import numpy as np
import pytest
import torch
from test_decoder import moment, objects, views
from test_model import lift_splat, make_frame, small_config

from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model import detector, tokens
from perception.model.build import build
from perception.model.encoder import Encoded
from perception.model.layers import exact_product
from perception.model.memory import Memory
from perception.model.tokens import ViewTokens


def in_bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def same(function):
    want = function()
    with in_bfloat16():
        have = function()
    assert have.dtype == want.dtype and torch.equal(have, want)


def test_small_matrices():
    a, b = torch.randn(5, 1, 2, 3), torch.randn(4, 3, 6)
    torch.testing.assert_close(exact_product(a, b), a @ b)
    with in_bfloat16():
        assert (a @ b).dtype == torch.bfloat16  # what this is about
    same(lambda: exact_product(a, b))


def test_where_image_cells_are_lifted_to():
    pose = torch.from_numpy(SE3.from_yaw(0.3, (1.23, -4.56, 1.7)).matrix).float()[None, None]
    intrinsics = torch.tensor([[[[211.7, 0, 175.3], [0, 212.9, 60.1], [0, 0, 1]]]])
    same(lambda: lift_splat(BEVGrid(-51.2, 51.2, -51.2, 51.2, -5, 3, 0.8)).frustum(intrinsics, pose, 4, 11))


def test_where_images_are_read(monkeypatch):
    read = []
    sampled = tokens.sampled
    monkeypatch.setattr(tokens, "sampled", lambda features, where: read.append(where) or sampled(features, where))
    source = ViewTokens((2, 2), 4)

    def look():
        read.clear()
        source(Encoded(torch.zeros(1), views=views()), objects([10.3, 1.7, 0.2], yaw=0.4), torch.zeros(1, 3))
        return torch.stack(read)

    same(look)


def test_where_remembered_objects_are():
    memory = Memory(objects([31.7, -22.9, 1.1], velocity=(3.3, 4.4)), moment(10.0, SE3()))
    now = moment(10.5, SE3.from_yaw(math.pi / 7, (3.3, 0.4, np.pi)))
    same(lambda: memory.at(now)[0].center)


@pytest.mark.parametrize("decoder", [(), ("decoder.kind=attention", "decoder.memory=8")])
def test_detection_as_on_a_gpu(monkeypatch, decoder):
    """The same frame in both precisions, all of the inference path: maps differ by what bfloat16 rounds, no more."""
    torch.manual_seed(0)
    model, frame, maps = build(small_config(*decoder)).eval(), make_frame(), []
    model.heads["boxes"].register_forward_hook(lambda _, __, output: maps.append(output.heat_logits))
    for precision in (detector.inference_precision, lambda _: in_bfloat16()):
        monkeypatch.setattr(detector, "inference_precision", precision)
        found, memory = model.detect(frame, None)
        again, _ = model.detect(frame, memory)
        assert len(found) and len(again) and np.isfinite(found.boxes.center).all()
    exact, _, rounded, _ = maps
    assert exact.dtype == rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)


def test_a_cpu_detects_in_float32():
    with detector.inference_precision(torch.device("cpu")):
        assert not torch.is_autocast_enabled("cpu")
