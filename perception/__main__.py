"""``python -m perception`` is the command ``perception``."""

from perception.cli import main

if __name__ == "__main__":
    main()
