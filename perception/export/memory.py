"""What an exported model remembers of a frame, in numpy: ``model.memory`` for one drive, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.geometry import SE3
from perception.sample import Frame

_LONGEST_S = 1.5  # as in model.memory
_FASTEST_MPS = 70.0


@dataclass(frozen=True, eq=False)
class Memory:
    """objects: the best ones of a frame, [1, N, ...] by field of ``model.objects``, in the ego frame of that frame."""

    objects: dict[str, np.ndarray]
    scene: str
    timestamp_ns: int
    world_SE3_ego: SE3

    @classmethod
    def of(cls, objects: dict[str, np.ndarray], frame: Frame, most: int) -> Memory:
        """The ``most`` best of ``objects`` and their "scores", proposed anew with the score that they have."""
        best = np.argsort(-objects["scores"][0], kind="stable")[:most]
        kept = {name: value[:, best] for name, value in objects.items() if name != "scores"}
        kept["prior"] = objects["scores"][:, best]
        return cls(kept, frame.scene, frame.timestamp_ns, frame.world_SE3_ego)

    def at(self, frame: Frame) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The objects in the ego frame of a later frame, and the seconds [1] since then; valid where they are known."""
        elapsed_s = (frame.timestamp_ns - self.timestamp_ns) / 1e9
        motion = frame.world_SE3_ego.inverse() @ self.world_SE3_ego
        distance_m = float(np.linalg.norm(motion.translation))
        known = self.scene == frame.scene and 0 < elapsed_s < _LONGEST_S
        known = known and distance_m < _FASTEST_MPS * elapsed_s + 1
        elapsed = np.float32(np.clip(elapsed_s, 0, _LONGEST_S))
        center, velocity = self.objects["center"].copy(), self.objects["velocity"]
        center[..., :2] += velocity * elapsed
        cos, sin = (np.float32(part(motion.yaw)) for part in (np.cos, np.sin))
        turned = [cos * velocity[..., 0] - sin * velocity[..., 1], sin * velocity[..., 0] + cos * velocity[..., 1]]
        moved = {
            "center": center @ motion.rotation.T.astype(np.float32) + motion.translation.astype(np.float32),
            "yaw": self.objects["yaw"] + np.float32(motion.yaw),
            "velocity": np.stack(turned, axis=-1),
            "valid": self.objects["valid"] & known,
        }
        return self.objects | moved, np.array([elapsed])
