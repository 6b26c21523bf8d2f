"""The one family of exceptions that bad input raises."""


class PerceptionError(Exception):
    """Base of every error on bad input: one line that names the file or key, what was expected and what was found."""
