"""Simulated drives: a procedural world, ray-cast for six cameras, a LiDAR and five radars, in the nuScenes layout."""

from perception.sim.simulate import Settings, SimulationError, simulate

__all__ = ["Settings", "SimulationError", "simulate"]
