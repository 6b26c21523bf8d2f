"""Training: batches, augmentation, losses, optimiser, checkpoints and the loop."""

from perception.train.initialise import initialise
from perception.train.run import train

__all__ = ["initialise", "train"]
