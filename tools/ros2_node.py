"""The command ``perception ros2``, from a checkout."""

from perception.__main__ import main

if __name__ == "__main__":
    main("ros2")
