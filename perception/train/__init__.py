"""Training: batches, augmentation, losses, optimiser, checkpoints and the loop."""

from perception.train.trainer import initialise, train

__all__ = ["initialise", "train"]
