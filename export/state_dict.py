"""Read a state dict of kws_project or kws-hw, two student projects on Speech Commands with the same CRNN. It is a
pickle file of tensors; the sizes of the network follow from their shapes.

Their network reads log-mel with a floor of 1e-9 as it is. Earshot's reads its height above the floor, which `centre`
undoes. A softmax over two classes equals a sigmoid of the log-odds, whichever class is the keyword.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.model.checkpoint import CheckpointError
from training.model.crnn import CRNN, Size
from training.model.features import FLOOR, N_MELS


def read_state_dict(path: Path, stride: tuple[int, int], window: int, keyword_class: int) -> CRNN:
    """stride: of the convolution, mel × frames; window: hops that the attention sees; keyword_class: 0 or 1.

    Raises CheckpointError.
    """
    tensors = load(path)
    refuse_others(path, tensors)
    size = infer_size(path, tensors, stride, window)
    if keyword_class == 0:  # Earshot's keywords come after "none of them"
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name].flip(0)
    model = CRNN(size)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not their CRNN: {' '.join(str(error).split())[:200]}") from None
    return model.eval()


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by torch.save, as they are or below "state_dict", "model_state_dict" or "model"."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except Exception as error:  # torch and pickle raise many types at a broken file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: cannot be read as a state dict of tensors: {reason[0][:150]}") from None
    for wrapper in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: not a state dict: it must hold names and tensors, and nothing else")
    tensors = {str(name): tensor.float() for name, tensor in content.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    return tensors


def refuse_others(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise CheckpointError for networks that resemble theirs but would score wrongly, each with its reason."""
    for name, dimensions in (("conv.0.weight", 4), ("gru.weight_ih_l0", 2), ("classifier.weight", 2)):
        if name not in tensors:
            raise CheckpointError(f"{path}: {name} is missing; it has {', '.join(sorted(tensors)[:8])} …")
        if tensors[name].dim() != dimensions:
            raise CheckpointError(f"{path}: {name} has {tensors[name].dim()} dimensions instead of {dimensions}")
    if any(name.endswith("_reverse") for name in tensors):
        raise CheckpointError(f"{path}: its GRU is bidirectional; it needs future audio, which a stream does not have")
    if (classes := len(tensors["classifier.weight"])) != 2:
        raise CheckpointError(f"{path}: its classifier has {classes} classes; only two can be read, keyword and other")


def infer_size(path: Path, tensors: dict[str, Tensor], stride: tuple[int, int], window: int) -> Size:
    channels, _, *kernel = tensors["conv.0.weight"].shape
    hidden = tensors["gru.weight_ih_l0"].shape[0] // 3
    layers = sum(re.fullmatch(r"gru\.weight_ih_l\d+", name) is not None for name in tensors)
    size = Size(
        channels=channels,
        kernel=(kernel[0], kernel[1]),
        stride=stride,
        hidden=hidden,
        layers=layers,
        window=window,
        centre=-math.log(FLOOR),
        scale=1.0,
    )
    inputs = tensors["gru.weight_ih_l0"].shape[1]
    if kernel[0] > N_MELS or channels * size.bands != inputs:
        raise CheckpointError(
            f"{path}: kernel {kernel[0]}x{kernel[1]} at stride {stride[0]}x{stride[1]} does not give the GRU its "
            f"{inputs} inputs; pass --stride MELxFRAMES as it was trained"
        )
    return size
