"""Memory: the best objects of the last frame, carried to the present one (StreamPETR, Wang et al., 2023).

Objects are moved by the ego motion and by their own velocity. Nothing is remembered at the beginning of a drive, after
a jump in time or where the vehicle would have had to jump.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from perception.batch import Batch, Moment, Tensors
from perception.errors import PerceptionError
from perception.model.layers import exact_product
from perception.model.objects import Objects, rotated

_LONGEST_S = 1.5  # without a frame, after which nothing is remembered
_FASTEST_MPS = 70.0  # that a vehicle drives; poses that jump further are no motion


@dataclass
class Memory(Tensors):
    """objects: of each sample, in the ego frame of ``moment``."""

    objects: Objects
    moment: Moment

    @classmethod
    def of(cls, objects: Objects, batch: Batch, most: int) -> Memory:
        """The ``most`` best of ``objects``, proposed anew with the score that they have."""
        if batch.moment is None:
            raise PerceptionError("memory: a batch that says when and where its frames were taken was expected")
        objects = replace(objects, prior=objects.scores)
        best = objects.prior.topk(min(most, objects.prior.shape[1]), dim=1).indices
        return cls(objects.select(best).detach(), batch.moment)

    def at(self, moment: Moment) -> tuple[Objects, torch.Tensor]:
        """The objects in the ego frame of a later moment, and the seconds [B] since then; valid where they are known.

        Raises:
            PerceptionError: a memory of another number of samples.
        """
        objects = self.objects
        if len(moment.scenes) != len(self.moment.scenes):
            found = f"{len(self.moment.scenes)}"
            raise PerceptionError(f"memory: that of {len(moment.scenes)} samples was expected, found that of {found}")
        elapsed_s = (moment.timestamp_ns - self.moment.timestamp_ns).double() / 1e9
        motion = torch.linalg.inv(moment.world_SE3_ego) @ self.moment.world_SE3_ego
        distance = motion[:, :3, 3].norm(dim=1)
        same = [a == b for a, b in zip(moment.scenes, self.moment.scenes, strict=True)]
        known = (elapsed_s > 0) & (elapsed_s < _LONGEST_S) & (distance < _FASTEST_MPS * elapsed_s.clamp(min=0) + 1)
        if not all(same):
            known &= torch.tensor(same, device=known.device)
        motion, elapsed = motion.float(), elapsed_s.float().clamp(0, _LONGEST_S)
        turn = torch.atan2(motion[:, 1, 0], motion[:, 0, 0])[:, None]
        shift = torch.cat(
            [objects.velocity * elapsed[:, None, None], torch.zeros_like(objects.center[..., 2:])], dim=-1
        )
        center = exact_product(motion[:, None, :3, :3], (objects.center + shift)[..., None])[..., 0]
        center = center + motion[:, None, :3, 3]
        return replace(
            objects,
            center=center,
            yaw=objects.yaw + turn,
            velocity=rotated(objects.velocity, turn),
            valid=objects.valid & known[:, None],
        ), elapsed
