"""The step as TorchScript, for libtorch: `(audio, *states) -> (score, *next)`."""

import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from export.step.step import Step


def export_torchscript(step: Step, path: Path) -> None:
    """Write `path`: traced (shapes are static, nothing branches) and frozen, so that the DFT basis is a constant."""
    example = (torch.zeros(1, step.size.hop_samples), *step.zeros())
    content = io.BytesIO()
    with without_advice(), torch.no_grad():
        traced = torch.jit.trace(step, example, check_trace=False)  # verify.py checks it
        torch.jit.save(torch.jit.freeze(traced), content)
    path.write_bytes(without_origin(content))  # libtorch's own writer has no OSError for a full disk


def without_origin(archive: io.BytesIO) -> bytes:
    """The same archive without what differs between processes and machines: the number that torch gives a traced class,
    names of source files, and the serialization id."""
    copy = io.BytesIO()
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(("/data.pkl", ".py")):
                content = re.sub(rb"___torch_mangle_\d+", b"___torch_mangle_0", content)
            if not name.endswith((".debug_pkl", "/serialization_id")):
                name = re.sub(r"___torch_mangle_\d+", "___torch_mangle_0", name)
                new.writestr(zipfile.ZipInfo(name), content)
    return copy.getvalue()


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    with without_advice():
        module: torch.jit.ScriptModule = torch.jit.load(str(path))
    return module


@contextmanager
def without_advice() -> Iterator[None]:
    """Without torch.jit's deprecation warnings. torch.export's files cannot be read by libtorch alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        yield
