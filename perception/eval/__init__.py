"""Evaluation: the nuScenes metric on arrays, submissions, score calibration, and the official code."""
