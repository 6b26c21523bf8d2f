"""Several processes under torchrun: their group, what they tell each other, and stop signals."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from perception.device import checked_device
from perception.errors import PerceptionError
from perception.signals import handled_by

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


@contextlib.contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """Yield this process's device; under torchrun, join the process group. "auto" uses a GPU if there is one."""
    import torch
    from torch import distributed

    kind = checked_device(device)
    if "RANK" not in os.environ:
        yield torch.device(kind)
        return
    if kind.startswith("cuda"):
        kind = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(kind)
    distributed.init_process_group("nccl" if kind.startswith("cuda") else "gloo")
    try:
        yield torch.device(kind)
    finally:
        gc.collect()  # wrappers in reference cycles would keep gloo's threads, which abort the process when it ends
        distributed.destroy_process_group()


def in_group() -> bool:
    """Whether this process is one of a group. Does not import torch, without which there is none."""
    if "torch" not in sys.modules:
        return False
    from torch import distributed

    return distributed.is_initialized()


def place() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    if not in_group():
        return 0, 1
    from torch import distributed

    return distributed.get_rank(), distributed.get_world_size()


def any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """Each flag, true if it is true in any process, so that all processes take the same branch."""
    if not in_group():
        return flags
    import torch
    from torch import distributed

    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.bool().tolist()


def of_first_process(call: Callable[[], Result], device: torch.device) -> Result:
    """What ``call`` returns in the first process, or the PerceptionError that it raises there, in every process."""
    if not in_group():
        return call()
    from torch import distributed

    answer: list[Any] = [None]
    if distributed.get_rank() == 0:
        try:
            answer = [call()]
        except PerceptionError as error:
            answer = [error]
    distributed.broadcast_object_list(answer, src=0, device=device)
    if isinstance(answer[0], PerceptionError):
        raise answer[0]
    return answer[0]


def of_all_processes(value: Result) -> list[Result]:
    """The value in every process."""
    if not in_group():
        return [value]
    from torch import distributed

    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that receives signals instead of stopping; a second Ctrl-C interrupts immediately."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if not in_group():  # torchrun forwards a signal that the terminal sent too
            signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled_by(handle):
        yield received
