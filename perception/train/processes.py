"""The processes of a training: their group, what they agree on, and the signals that end them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import torch
from torch import distributed

from perception.device import checked_device


@contextlib.contextmanager
def process_group(device: str) -> Iterator[torch.device]:
    """This process's device, and under torchrun the group of all processes. "auto" takes a GPU if there is one."""
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
        distributed.destroy_process_group()


def any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """Each flag, true if it is true in any process: all processes must take the same branch."""
    if not distributed.is_initialized():
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.bool().tolist()


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that is no longer empty once Ctrl-C or a termination request came; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if not distributed.is_initialized():  # torchrun passes a signal on that the terminal has sent already
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
