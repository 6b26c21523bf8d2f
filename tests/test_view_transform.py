"""What the depth network knows of a camera, and a world that is turned half around."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.view_transform import CalibratedDepth, FocalDepth, LiftSplat, describe_cameras
from perception.sample import CameraImage
from perception.train.augment import ImageTransform, WorldTransform, transform_camera

GRID = BEVGrid(-8, 8, -8, 8, -5, 5, 1.0)
FORWARD = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))  # camera axes, looking along the ego's x
INTRINSICS = torch.tensor([[500.0, 0, 48], [0, 250, 4], [0, 0, 1]])


def matrices(*poses: SE3) -> torch.Tensor:
    return torch.from_numpy(np.stack([pose.matrix for pose in poses])).float()


def test_a_camera_described_by_hand():
    """Principal point in the middle across, a quarter from the top; level at two metres, then nodding down by 30°."""
    nod = SE3(Rotation.from_euler("x", -30, degrees=True).as_matrix())
    poses = matrices(SE3(np.eye(3), [3, 1, 2]) @ FORWARD, SE3(np.eye(3), [0, 0, 1]) @ FORWARD @ nod)
    described = describe_cameras(INTRINSICS.expand(2, 3, 3), poses, (16, 96))
    wanted = torch.tensor([[1, 0.5, 0, -0.25, 0, -1, 0, 1], [1, 0.5, 0, -0.25, 0, -(0.75**0.5), -0.5, 0.5]])
    torch.testing.assert_close(described, wanted)


@pytest.mark.parametrize("degrees", [90, 180, 247])
def test_a_turned_world_looks_the_same_to_a_camera(degrees):
    pose = SE3.from_yaw(0.3, [1.0, 0.5, 1.5]) @ FORWARD @ SE3(Rotation.from_euler("xz", [0.1, 0.2]).as_matrix())
    turned = WorldTransform(rigid=SE3.from_yaw(np.deg2rad(degrees))).camera_pose(pose)
    before, after = (describe_cameras(INTRINSICS[None], matrices(p), (16, 96)) for p in (pose, turned))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_a_mirrored_image_says_the_same_in_a_mirrored_world_and_in_one_that_is_not(degrees):
    pose = SE3.from_yaw(0.3, [1.0, 0.5, 1.5]) @ FORWARD @ SE3(Rotation.from_euler("xz", [0.1, 0.2]).as_matrix())
    camera = CameraImage(np.zeros((16, 96, 3), np.uint8), INTRINSICS.double().numpy(), pose, 0)
    image = ImageTransform(mirror=True, rotation=np.deg2rad(degrees))
    own, world = (transform_camera(camera, WorldTransform(mirror=m), image, (16, 96)) for m in (False, True))
    assert own.intrinsics[0, 0] < 0 < world.intrinsics[0, 0]
    described = [
        describe_cameras(torch.from_numpy(each.intrinsics)[None].float(), matrices(each.ego_SE3_camera), (16, 96))
        for each in (own, world)
    ]
    torch.testing.assert_close(*described)


def test_depth_depends_on_what_the_network_is_said_to_know():
    torch.manual_seed(0)
    features, calibration = torch.randn(2, 8, 3, 4), torch.rand(2, 8)
    tilted = calibration + torch.tensor([0, 0, 0, 0, 0, 0, 0.5, 0])
    focal, calibrated = FocalDepth(8, 5), CalibratedDepth(8, 5)
    assert focal(features, calibration).shape == calibrated(features, calibration).shape == (2, 5, 3, 4)
    assert torch.equal(focal(features, calibration), focal(features, tilted))
    assert not torch.allclose(calibrated(features, calibration), calibrated(features, tilted))
    calibrated(features, calibration).square().sum().backward()
    assert all(parameter.grad is not None for parameter in calibrated.parameters())


def test_images_in_a_world_turned_by_half_a_turn_fill_the_opposite_cells():
    torch.manual_seed(0)
    view = LiftSplat(GRID, 8, 1.0, 9.0, 4, 8, 8, calibrated=True).eval()
    pooled = []
    view.refine.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    features = torch.randn(1, 2, 8, 2, 3)
    intrinsics = torch.tensor([[12.0, 0, 11.5], [0, 12, 7.5], [0, 0, 1]]).expand(1, 2, 3, 3)
    poses = [SE3.from_yaw(yaw, (0.3, 0.2, 1)) @ FORWARD for yaw in (0.1, 2.0)]
    half_turn = WorldTransform(rigid=SE3.from_yaw(np.pi))
    for seen in (poses, [half_turn.camera_pose(pose) for pose in poses]):
        view(features, intrinsics, matrices(*seen)[None], torch.ones(1, 2, dtype=torch.bool))
    before, after = pooled
    assert before.abs().sum() > 0 and not torch.equal(before, after)
    torch.testing.assert_close(after, before.flip(2, 3), rtol=1e-4, atol=1e-5)
