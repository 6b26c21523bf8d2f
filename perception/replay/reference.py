"""The reference of comparisons: a result that later ones are compared with, and how it is replaced."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from perception.files import writing
from perception.replay.result import ReplayResultError, ResultFile, read_summary


def update_reference(new: str | Path, reference: str | Path) -> None:
    """Make ``reference`` a copy of the folder ``new``; everything that was in it is removed.

    The copy is made beside it and renamed when it is complete, so that no reader sees half of it, and a failure leaves
    the old one.

    Raises:
        ReplayResultError: ``new`` is no result, one of an interrupted run, or one of the folders is in the other.
        ResultsError: it cannot be written.
    """
    # Through a link, the folder that it leads to is replaced and not the link.
    new, reference = Path(new).resolve(), Path(reference).resolve()
    if ResultFile(new).interrupted or not read_summary(new).get("complete", True):
        raise ReplayResultError(f"{new}: the result of a whole run was expected, found that of an interrupted one")
    if new.is_relative_to(reference) or reference.is_relative_to(new):
        raise ReplayResultError(f"{reference}: a folder apart from {new} was expected")
    with writing(reference):
        reference.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{reference.name}.", dir=reference.parent))
        old = scratch / "old"
        try:
            shutil.copytree(new, scratch / "new")
            if reference.exists():
                reference.rename(old)
            (scratch / "new").rename(reference)
        finally:
            if old.exists() and not reference.exists():
                old.rename(reference)
            shutil.rmtree(scratch, ignore_errors=True)
