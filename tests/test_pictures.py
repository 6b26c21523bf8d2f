"""Pictures of validation frames in TensorBoard's logs."""

import cv2
import numpy as np
import pytest
from tiny_drive import save_tiny_detector, tiny_world

import perception
from perception.data.nuscenes import NuScenes
from perception.train.journal import Journal
from perception.train.pictures import log_pictures, shown

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@pytest.mark.parametrize(
    ("frames", "expected"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (6, [1, 3, 5]), (600, [100, 300, 500])]
)
def test_frames_are_evenly_spread(frames, expected):
    assert shown(frames) == expected


class Damaged:
    """A drive whose fourth frame cannot be read, and whose last one has no camera."""

    def __init__(self, frames):
        self.frames, self.tokens = frames, frames.tokens

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, index):
        if index == 3:
            return None
        return self.frames[index].only(["radar", "lidar"]) if index == 5 else self.frames[index]


def test_what_is_seen_of_them_is_in_the_logs_of_the_first_process(tmp_path):
    frames = Damaged(NuScenes(tiny_world().write(tmp_path / "drive")))
    detector = perception.load(save_tiny_detector(tmp_path / "detector"))
    for rank in (0, 1):
        journal = Journal(tmp_path / str(rank), 0, rank)
        for step in (4, 8):
            log_pictures(detector, frames, step, journal)
        journal.close()
    assert not (tmp_path / "1").exists()
    events = accumulator.EventAccumulator(str(tmp_path / "0/tensorboard"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == ["frame 1/bev", "frame 1/camera", "frame 5/bev"]
    for tag, shape in (("frame 1/bev", (480, 480, 3)), ("frame 1/camera", (270, 480, 3))):
        first, second = events.Images(tag)
        assert (first.step, second.step) == (4, 8) and (first.height, first.width) == shape[:2]
        assert first.encoded_image_string == second.encoded_image_string
        image = cv2.imdecode(np.frombuffer(first.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == shape and image.std() > 0
