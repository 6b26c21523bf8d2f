"""The decorator of all numba kernels: they are compiled on first use and cached on disk if possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numba
from numba.core import event

log = logging.getLogger(__name__)


def compiled(function: Callable | None = None, **options: Any) -> Callable:
    """``numba.njit`` with a disk cache and ``nogil``; use as ``@compiled`` or with numba's ``options``.

    If no cache folder is writable (a read-only installation without a home), the kernel is compiled in every process
    that calls it.
    """
    if function is None:
        return partial(compiled, **options)
    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # "cannot cache function", raised on decoration, not on compilation
        _tell_that_nothing_is_cached()
        return numba.njit(nogil=True, **options)(function)


@cache
def _tell_that_nothing_is_cached() -> None:
    log.warning(
        "compiled kernels cannot be kept, every process compiles them anew, which takes seconds: neither the package "
        "nor a cache folder can be written; NUMBA_CACHE_DIR names another folder"
    )


class _FirstCompilation(event.Listener):
    """Logs once that kernels of this package are being compiled. Loading from the cache is not logged."""

    told = False

    def on_start(self, event: event.Event) -> None:
        if not self.told and event.data["dispatcher"].py_func.__module__.startswith("perception."):
            self.told = True
            log.info("compiling kernels, which takes seconds; kept for later runs where a cache can be written")

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _FirstCompilation())
