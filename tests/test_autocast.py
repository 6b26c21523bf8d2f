"""Training in bfloat16 lowers the network's numbers, never where things are: metres and pixels stay exact."""

import math

import numpy as np
import torch
from test_decoder import moment, objects, views
from test_model import lift_splat

from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model import tokens
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
