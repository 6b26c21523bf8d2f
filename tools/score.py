"""The command ``perception score``, from a checkout."""

from perception.cli import main

if __name__ == "__main__":
    main("score")
