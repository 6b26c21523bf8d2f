"""The rows of the nuScenes tables: what is read of each, and the types it must have.

https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

from typing import Annotated

import msgspec

# Whole numbers, which some programs write as 5.0.
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float
Flag = bool | int | float | str
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class Row(msgspec.Struct, gc=False):
    token: str


class Named(Row, gc=False):
    """Of scene, category and attribute."""

    name: str


class Visibility(Row, gc=False):
    level: str


class Sample(Row, gc=False):
    scene_token: str
    timestamp: Whole


class Sensor(Row, gc=False):
    channel: str
    modality: str


class CalibratedSensor(Row, gc=False):
    sensor_token: str
    translation: Vector
    rotation: Quaternion
    camera_intrinsic: list[list[float]]
    camera_distortion: list[float] | None = None  # not nuScenes', but of others who took on its tables
    distortion_model: str | None = None


class SampleData(Row, gc=False):
    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: Whole
    is_key_frame: Flag
    height: Whole
    width: Whole
    filename: str
    prev: str


class EgoPose(Row, gc=False):
    translation: Vector
    rotation: Quaternion


class Instance(Row, gc=False):
    category_token: str


class SampleAnnotation(Row, gc=False):
    sample_token: str
    instance_token: str
    visibility_token: str
    attribute_tokens: list[str]
    translation: Vector
    size: Vector
    rotation: Quaternion
    prev: str
    next: str
    num_lidar_pts: Whole
    num_radar_pts: Whole
