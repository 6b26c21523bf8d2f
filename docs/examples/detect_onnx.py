"""Runs an exported model over a folder in the nuScenes layout; imports no torch.

perception export --checkpoint sim --format onnx --out out/sim
python docs/examples/detect_onnx.py out/sim data/drives/1000
"""

import sys

from perception.data.nuscenes import NuScenes
from perception.export import load

model = load(sys.argv[1], threads=2)
memory = None
for frame in NuScenes(sys.argv[2], task=model.task, **model.card.clouds):
    detections, memory = model.detect(frame, memory)
    best = [
        f"{model.task.classes[label]} {score:.2f}" for label, score in zip(detections.boxes.label, detections.scores)
    ]
    print(frame.token, ", ".join(best[:5]))
assert "torch" not in sys.modules
