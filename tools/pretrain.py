"""The command ``perception pretrain``, from a checkout."""

from perception.__main__ import main

if __name__ == "__main__":
    main("pretrain")
