"""The command ``perception train``, from a checkout."""

from perception.cli import main

if __name__ == "__main__":
    main("train")
