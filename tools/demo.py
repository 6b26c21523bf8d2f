"""The command ``perception demo``, from a checkout."""

from perception.cli import main

if __name__ == "__main__":
    main("demo")
