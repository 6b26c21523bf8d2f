"""Datasets: nuScenes tables and sensor files as Frames, the protocol of frame sources, and corruptions of frames."""
