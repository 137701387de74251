"""Training by several processes, on one host or many, started by torchrun. Without torchrun there is one.

Each process computes the gradients of its share of every batch, and all take the same step (Li et al. 2020, "PyTorch
Distributed: Experiences on Accelerating Data Parallel Training"). A mean over the batch is the mean of the processes'
means; any other divisor of a loss must be the same in all processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(hours=12)  # while one process makes the training windows, the others wait


def start() -> None:
    """Join the other processes if torchrun started this one: by nccl where there are GPUs, else by gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def device() -> torch.device:
    """The process's own GPU under torchrun, where there are any. A single process uses the CPU: models of this size
    gain nothing from a GPU."""
    if world_size() == 1 or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def print_once(line: str) -> None:
    if rank() == 0:
        print(line, flush=True)


def share(batch: int) -> slice:
    """The part of a batch that is this process's."""
    size = batch // world_size()
    return slice(rank() * size, (rank() + 1) * size)


def mean(values: Tensor) -> Tensor:
    """Mean over the processes."""
    if world_size() > 1:
        values = values.detach().clone().float()
        dist.all_reduce(values)
        values /= world_size()
    return values


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


@contextmanager
def one_first() -> Iterator[None]:
    """One process of each host runs the block before the others, which then find the files that it made."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        barrier()
    yield
    if first:
        barrier()


class Classify(nn.Module):
    """A model's `classify` as the forward of a module: DistributedDataParallel averages gradients of that only."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> Any:
        return self.model.classify(*arguments)  # type: ignore[operator]


def parallel(model: nn.Module) -> nn.Module:
    """The model's `classify`; with several processes its gradients are the mean over all."""
    return DistributedDataParallel(Classify(model)) if world_size() > 1 else Classify(model)
