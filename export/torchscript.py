"""The step as TorchScript: `(audio, *states) -> (score, *next)`, for those who run libtorch."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from export.step import Step


def export_torchscript(step: Step, path: Path) -> None:
    """Write `path`: traced (shapes are static, nothing branches) and frozen, so that the DFT basis is a constant."""
    example = (torch.zeros(1, step.size.hop_samples), *step.zeros())
    content = io.BytesIO()
    with without_advice(), torch.no_grad():
        traced = torch.jit.trace(step, example, check_trace=False)  # verify.py checks it, and more
        torch.jit.save(torch.jit.freeze(traced), content)
    path.write_bytes(content.getbuffer())  # libtorch's own writer has no OSError for a full disk


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    with without_advice():
        module: torch.jit.ScriptModule = torch.jit.load(str(path))
    return module


@contextmanager
def without_advice() -> Iterator[None]:
    """torch.jit gives way to torch.export, whose files older torches and libtorch alone cannot read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        yield
