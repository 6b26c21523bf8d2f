"""What nuScenes fixes: modalities, channels, rates, and the names in its tables."""

from __future__ import annotations

MODALITIES = ("camera", "radar", "lidar")  # of sensors, as perception.NuScenes names them
REFERENCE_CHANNEL = "LIDAR_TOP"  # whose keyframe gives a sample its time and its ego pose
KEYFRAME_HZ, LIDAR_HZ, RADAR_HZ = 2.0, 20.0, 13.0

# category -> detection class, None for those outside the detection task; in the order of the official table.
DETECTION_CLASS = {
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.wheelchair": None,
    "human.pedestrian.stroller": None,
    "human.pedestrian.personal_mobility": None,
    "human.pedestrian.police_officer": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "animal": None,
    "vehicle.car": "car",
    "vehicle.motorcycle": "motorcycle",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.truck": "truck",
    "vehicle.construction": "construction_vehicle",
    "vehicle.emergency.ambulance": None,
    "vehicle.emergency.police": None,
    "vehicle.trailer": "trailer",
    "movable_object.barrier": "barrier",
    "movable_object.trafficcone": "traffic_cone",
    "movable_object.pushable_pullable": None,
    "movable_object.debris": None,
    "static_object.bicycle_rack": None,
}
BICYCLE_RACK = "static_object.bicycle_rack"  # the metric ignores bicycles and motorcycles that stand in one
VISIBILITY_LEVEL = {"v0-40": 1, "v40-60": 2, "v60-80": 3, "v80-100": 4}
