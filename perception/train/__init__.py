"""Training: batches, augmentation, losses, optimiser, checkpoints and the loop."""

from perception.train.trainer import train

__all__ = ["train"]
