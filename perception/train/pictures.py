"""What a detector sees of a few validation frames, as pictures for TensorBoard: the same frames at every validation."""

from __future__ import annotations

import numpy as np

from perception.data.sources import FrameSource
from perception.model.detector import Detector
from perception.sample import Boxes3D, Detections
from perception.train.journal import Journal
from perception.viz import Layout, draw_bev, draw_camera, images_of

COUNT = 3
SCORE_THRESHOLD = 0.3  # as in replays
BEV_SIZE = (480, 480)  # height and width, pixels
CAMERA_SIZE = (270, 480)


def log_pictures(detector: Detector, frames: FrameSource, step: int, journal: Journal) -> None:
    """Write the bird's-eye view, with ground truth, and one camera image of some frames, evenly spread over ``frames``.

    Only where the journal has TensorBoard logs. Frames are seen alone, without what earlier ones saw.
    """
    if journal.tensorboard is None:
        return
    layout = Layout.of(detector)
    for index in shown(len(frames)):
        frame = frames[index]
        if frame is None:
            continue
        seen = frame.only(detector.sensors)
        detections = detector.detect(seen) if seen.sensors else Detections(Boxes3D.empty(), np.zeros(0))
        boxes = detections.boxes[detections.scores >= SCORE_THRESHOLD]
        truth = None if frame.boxes is None else frame.boxes[frame.boxes.measured]
        pictures = {"bev": draw_bev(frame, boxes, truth, BEV_SIZE, layout)}
        images = images_of(frame)
        if images:
            image = images.get("CAM_FRONT", images[min(images)])
            pictures["camera"] = draw_camera(image, boxes, CAMERA_SIZE, layout)
        journal.show({f"frame {index}/{name}": picture for name, picture in pictures.items()}, step)


def shown(frames: int) -> list[int]:
    """Indices of the frames that are shown: the middles of as many equal parts."""
    return sorted({(2 * part + 1) * frames // (2 * COUNT) for part in range(COUNT)}) if frames else []
