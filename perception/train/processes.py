"""Distributed training: the process group, flags shared by all processes, and stop signals."""

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
    """Yield this process's device; under torchrun, join the process group. "auto" uses a GPU if there is one."""
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
    """Each flag, true if it is true in any process, so that all processes take the same branch."""
    if not distributed.is_initialized():
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return tensor.bool().tolist()


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that receives SIGINT and SIGTERM instead of stopping; a second Ctrl-C interrupts immediately."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        received.append(number)
        if not distributed.is_initialized():  # torchrun forwards a signal that the terminal sent too
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
