"""A ROS 2 lifecycle node around :class:`perception.Stream`. See ``docs/ros2.md``."""
