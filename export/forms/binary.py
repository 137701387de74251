"""The step as model.bin: what the C engine reads (runtime/c, docs/engine-c.md).

Everything that `export.step` folds is folded here too, since the tensors are the step's own: the convolution's centre
and scale, the difference between each keyword's class and "none of them".
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from export.detector import Detector
from export.step.step import Affine, Cell, Member, Step

MAGIC = b"EARSHOT\0"
VERSION = 1
ALIGNED = 16  # bytes: where each tensor begins
GROUP = 4  # outputs of a float matrix, inputs of an int8 one: padded to a multiple of it
FLOAT32, INT8 = 0, 1
CHECKED = 20  # bytes from here on are covered by the checksum that stands before them
HEADER = 96  # bytes; thresholds follow
MOST_INPUTS = 1023  # of an int8 matrix: sums of so many products stay below 2**31

Array = NDArray[np.float32]


class BinaryError(Exception):
    """A model that the format cannot hold; the message is one line."""


def to_bytes(detector: Detector, kind: int = FLOAT32, audio: Array | None = None) -> bytes:
    """The whole file. kind: FLOAT32 or INT8, of all weights but the convolutions', which are float in both.

    audio: (samples,) by which biases make up for the rounding to int8: see `mean_inputs`. Raises BinaryError.
    """
    step = Step(detector.model)
    means = mean_inputs(step, audio) if audio is not None and kind == INT8 else {}
    names = b"".join(name.encode() + b"\0" for name in detector.keywords)
    parts = [np.array(detector.thresholds, "<f4").tobytes(), names]
    for member in step.members:
        assert isinstance(member, Member)
        for weight, bias in convolutions(member, step.size.mix[0]):
            parts += float_matrix(weight, bias)
        for product in products(member):
            first = 1 if product is member.votes else 0  # the votes' first output is a constant 1
            weight, bias = product.weight[:, first:].numpy(), product.bias[first:].numpy()
            mean = means.get(product, np.zeros(len(weight), np.float32))
            parts += int8_matrix(weight, bias, mean) if kind == INT8 else float_matrix(weight, bias)
    body = b"".join(part + bytes(-len(part) % ALIGNED) for part in parts)
    sizes = header(detector, kind, len(names))
    return beginning(sizes + body) + sizes + body


def beginning(checked: bytes) -> bytes:
    return MAGIC + struct.pack("<III", VERSION, CHECKED + len(checked), zlib.crc32(checked))


def with_thresholds(content: bytes, thresholds: list[float]) -> bytes:
    """The same file with another operating point."""
    told = np.array(thresholds, "<f4").tobytes()
    checked = content[CHECKED:HEADER] + told + content[HEADER + len(told) :]
    return beginning(checked) + checked


def header(detector: Detector, kind: int, names: int) -> bytes:
    """What of the header the checksum covers."""
    size = detector.model.size
    (mels, frames), (stride_mels, stride_frames), (mix, steps) = size.kernel, size.stride, size.mix
    return struct.pack(
        "<19I",
        size.keywords,
        detector.refractory_hops,
        size.channels,
        mels,
        frames,
        stride_mels,
        stride_frames,
        mix,
        steps,
        size.hidden,
        size.layers,
        size.window,
        size.averaged,
        size.members,
        kind,
        names,
        0,
        0,
        0,
    )


def convolutions(member: Member, mix: int) -> Iterator[tuple[Array, Array]]:
    """Weight (inputs, outputs) and bias (outputs,): of the first, and of each channel of the second if there is one."""
    conv = member.conv
    yield columns(conv.weight), conv.bias.numpy()
    if mix:
        for weight, bias in zip(conv.mix_weight.split(mix), conv.mix_bias.split(mix), strict=True):
            yield columns(weight), bias.numpy()


def products(member: Member) -> list[Affine]:
    """All others, in the order of the step."""
    cells = [cell for cell in member.cells if isinstance(cell, Cell)]
    return [*(part for cell in cells for part in (cell.of_input, cell.of_hidden)),
            member.attend, member.energy, member.votes]  # fmt: skip


@torch.no_grad()
def mean_inputs(step: Step, audio: Array) -> dict[torch.nn.Module, Array]:
    """What each product reads on average of a recording (samples,), hop by hop. Rounded weights times that is what they
    add to an output in the long run, which a bias can take away (Nagel et al. 2019, "Data-Free Quantization through
    Weight Equalization and Bias Correction")."""
    sums: dict[torch.nn.Module, torch.Tensor] = {}

    def add(product: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        sums[product] = sums.get(product, torch.zeros(())) + inputs[0][0]

    for product in step.modules():
        if isinstance(product, Affine):
            product.register_forward_pre_hook(add)
    states, hops = step.zeros(), len(audio) // step.size.hop_samples
    for hop in torch.from_numpy(audio[: hops * step.size.hop_samples]).reshape(hops, 1, -1):
        _, *states = step(hop, *states)
    return {product: (total / hops).numpy() for product, total in sums.items()}


def columns(kernels: torch.Tensor) -> Array:
    """Kernels (outputs, 1, frames, bands) → (frames · bands, outputs)."""
    return kernels.flatten(1).T.numpy()


def float_matrix(weight: Array, bias: Array) -> list[bytes]:
    """Weight and bias, with outputs of zero up to a multiple of GROUP."""
    padding = -len(bias) % GROUP
    rows = np.concatenate([weight, bias[None]])
    return [np.pad(rows, ((0, 0), (0, padding))).astype("<f4").tobytes()]


def int8_matrix(weight: Array, bias: Array, mean: Array) -> list[bytes]:
    """Rounded weights, outputs × inputs, with inputs of zero up to a multiple of GROUP; the outputs' scales; bias.

    mean: of the inputs; the bias makes up for what rounding the weights changes for it.
    """
    if len(weight) > MOST_INPUTS:
        raise BinaryError(f"{len(weight)} inputs of a product are more than the {MOST_INPUTS} that int8 sums can hold")
    largest = np.maximum(np.abs(weight).max(axis=0), 1e-8).astype(np.float64)
    scale = (2 * largest / 255).astype(np.float32)  # as training.quantized rounds
    rounded = np.clip(np.round(weight / scale), -128, 127).astype(np.int8).T
    rows = np.pad(rounded, ((0, 0), (0, -len(weight) % GROUP)))
    bias = bias + mean @ (weight - rounded.T * scale)
    return [rows.tobytes(), scale.astype("<f4").tobytes(), bias.astype("<f4").tobytes()]
