"""The processes of ``tools/ros2_check.py``: a player, a listener, and who tells the node what to do."""
