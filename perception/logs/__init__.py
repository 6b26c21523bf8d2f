"""Logged drives: MCAP files, ROS 2 bags and nuScenes scenes as messages, and messages as Frames."""
