"""The command ``perception export``, from a checkout."""

from perception.__main__ import main

if __name__ == "__main__":
    main("export")
