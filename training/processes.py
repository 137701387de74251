"""Training by several processes, on one host or many, started by torchrun; without it, everything here does nothing.

Each process learns from its share of every batch, and all step as one (Li et al. 2020, "PyTorch Distributed:
Experiences on Accelerating Data Parallel Training"). A mean over the batch is the mean of the processes' means; what
else a loss divides by, they must agree on.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=12)  # for the process that makes the windows while the others wait


def start() -> None:
    """Join the others, if torchrun started this process: by nccl where there are GPUs, else by gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def stop() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def count() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def device() -> torch.device:
    """A GPU of one's own under torchrun where there are any. One process alone stays on the CPU: models as small as
    these gain nothing from a GPU."""
    if count() == 1 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def say(line: str) -> None:
    if rank() == 0:
        print(line, flush=True)


def share(batch: int) -> slice:
    """Which part of a batch is this process's."""
    size = batch // count()
    return slice(rank() * size, (rank() + 1) * size)


def mean(values: Tensor) -> Tensor:
    """Mean over the processes, such as of how many windows hold the keyword: what a loss divides by."""
    if count() > 1:
        values = values.detach().clone().float()
        distributed.all_reduce(values)
        values /= count()
    return values


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        distributed.barrier()


@contextmanager
def one_at_first() -> Iterator[None]:
    """Of each host one process goes first: it makes what is kept on disk, which the others then find."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        wait()
    yield
    if first:
        wait()


class Classify(nn.Module):
    """A model's `classify` as a forward, which is where DistributedDataParallel listens."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> Any:
        return self.model.classify(*arguments)  # type: ignore[operator]


def together(model: nn.Module) -> nn.Module:
    """What classifies like the model; in several processes with the mean of all their gradients."""
    return DistributedDataParallel(Classify(model)) if count() > 1 else Classify(model)
