"""The command ``perception import-weights``, from a checkout."""

from perception.__main__ import main

if __name__ == "__main__":
    main("import-weights")
