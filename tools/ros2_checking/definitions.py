"""Definitions of messages that have no wheel, without their comments.

Of ros2/geometry2 (tf2_msgs), ros-perception/radar_msgs, ros-perception/vision_msgs and
autowarefoundation/autoware_msgs.
"""

from perception.logs.ros_types import definition

_KINEMATICS = """
    uint8 UNAVAILABLE=0
    uint8 SIGN_UNKNOWN=1
    uint8 AVAILABLE=2
    geometry_msgs/PoseWithCovariance pose_with_covariance"""
DEFINITIONS = {
    **{
        name: definition(name)
        for name in (
            "tf2_msgs/msg/TFMessage",
            "radar_msgs/msg/RadarReturn",
            "radar_msgs/msg/RadarScan",
            "radar_msgs/msg/RadarTrack",
            "radar_msgs/msg/RadarTracks",
        )
    },
    "vision_msgs/msg/ObjectHypothesis": """
    string class_id
    float64 score""",
    "vision_msgs/msg/ObjectHypothesisWithPose": """
    vision_msgs/ObjectHypothesis hypothesis
    geometry_msgs/PoseWithCovariance pose""",
    "vision_msgs/msg/BoundingBox3D": """
    geometry_msgs/Pose center
    geometry_msgs/Vector3 size""",
    "vision_msgs/msg/Detection3D": """
    std_msgs/Header header
    vision_msgs/ObjectHypothesisWithPose[] results
    vision_msgs/BoundingBox3D bbox
    string id""",
    "vision_msgs/msg/Detection3DArray": """
    std_msgs/Header header
    vision_msgs/Detection3D[] detections""",
    "autoware_perception_msgs/msg/ObjectClassification": """
    uint8 UNKNOWN=0
    uint8 CAR=1
    uint8 TRUCK=2
    uint8 BUS=3
    uint8 TRAILER=4
    uint8 MOTORCYCLE=5
    uint8 BICYCLE=6
    uint8 PEDESTRIAN=7
    uint8 ANIMAL=8
    uint8 HAZARD=9
    uint8 OVER_DRIVABLE=10
    uint8 UNDER_DRIVABLE=11
    uint8 label
    float32 probability""",
    "autoware_perception_msgs/msg/Shape": """
    uint8 BOUNDING_BOX=0
    uint8 CYLINDER=1
    uint8 POLYGON=2
    uint8 type
    geometry_msgs/Polygon footprint
    geometry_msgs/Vector3 dimensions""",
    "autoware_perception_msgs/msg/DetectedObjectKinematics": f"""{_KINEMATICS}
    bool has_position_covariance
    uint8 orientation_availability
    geometry_msgs/TwistWithCovariance twist_with_covariance
    bool has_twist
    bool has_twist_covariance""",
    "autoware_perception_msgs/msg/DetectedObject": """
    float32 existence_probability
    autoware_perception_msgs/ObjectClassification[] classification
    autoware_perception_msgs/DetectedObjectKinematics kinematics
    autoware_perception_msgs/Shape shape""",
    "autoware_perception_msgs/msg/DetectedObjects": """
    std_msgs/Header header
    autoware_perception_msgs/DetectedObject[] objects""",
    "autoware_perception_msgs/msg/TrackedObjectKinematics": f"""{_KINEMATICS}
    geometry_msgs/TwistWithCovariance twist_with_covariance
    geometry_msgs/AccelWithCovariance acceleration_with_covariance
    uint8 orientation_availability
    bool is_stationary""",
    "autoware_perception_msgs/msg/TrackedObject": """
    unique_identifier_msgs/UUID object_id
    float32 existence_probability
    autoware_perception_msgs/ObjectClassification[] classification
    autoware_perception_msgs/TrackedObjectKinematics kinematics
    autoware_perception_msgs/Shape shape""",
    "autoware_perception_msgs/msg/TrackedObjects": """
    std_msgs/Header header
    autoware_perception_msgs/TrackedObject[] objects""",
}
