"""Another interpreter, which has packages that this one does not: it answers JSON requests, a line each."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from perception.errors import PerceptionError


class Peers:
    """A script beside this module, run by another interpreter as long as the context lasts; None runs nothing.

    ``folder`` holds files that a request names; they are gone afterwards.
    """

    def __init__(self, python: str | Path | None, script: str):
        self.python, self.script = python, script

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        if self.python is not None:
            self.process = subprocess.Popen(
                [str(self.python), str(Path(__file__).with_name(self.script))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return self

    def __exit__(self, *_) -> None:
        if self.python is not None:
            self.process.stdin.close()
            self.process.wait()
        self._folder.cleanup()

    def ask(self, request: dict) -> dict:
        """The answer to ``{"peer": name, ...}``.

        Raises:
            PerceptionError: the other side could not do it, or has ended.
        """
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise PerceptionError(
                f"{self.python}: an answer about {request['peer']} was expected, found none"
            ) from None
        if "error" in answer:
            raise PerceptionError(f"{self.python}: {request['peer']}: {answer['error']}")
        return answer


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
