"""The step as model.bin: what the C engine reads (runtime/c, docs/engine-c.md).

Everything that `export.step` folds is folded here too, since the tensors are the step's own: the convolution's centre
and scale, the difference between each keyword's class and "none of them".
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from export.detector import Detector
from export.step import Affine, Member, Step
from training.crnn import Size

MAGIC = b"EARSHOT\0"
VERSION = 1
ALIGNED = 16  # bytes: where each tensor begins
GROUP = 4  # outputs of a float matrix, inputs of an int8 one: padded to a multiple of it
FLOAT32, INT8 = 0, 1
MOST_INPUTS = 1023  # of an int8 matrix: sums of so many products stay below 2**31

Array = NDArray[np.float32]


class BinaryError(Exception):
    """A model that the format cannot hold; the message is one line."""


@dataclass(frozen=True)
class Precision:
    """Of the weights, FLOAT32 or INT8."""

    convolution: int
    matrices: int


FLOAT_FORM = Precision(FLOAT32, FLOAT32)
INT8_FORM = Precision(FLOAT32, INT8)


def to_bytes(detector: Detector, precision: Precision = FLOAT_FORM) -> bytes:
    """The whole file. Raises BinaryError."""
    step = Step(detector.model)
    names = b"".join(name.encode() + b"\0" for name in detector.keywords)
    parts = [np.array(detector.thresholds, "<f4").tobytes(), names]
    for member in step.members:
        assert isinstance(member, Member)
        for weight, bias, kind in matrices(member, step.size, precision):
            parts += int8_matrix(weight, bias) if kind == INT8 else float_matrix(weight, bias)
    body = b"".join(part + bytes(-len(part) % ALIGNED) for part in parts)
    sizes = header(detector, precision, len(names))
    checked = sizes + body
    start = MAGIC + struct.pack("<II", VERSION, len(MAGIC) + 12 + len(checked))
    return start + struct.pack("<I", zlib.crc32(checked)) + checked


def header(detector: Detector, precision: Precision, names: int) -> bytes:
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
        precision.convolution,
        precision.matrices,
        names,
        0,
        0,
    )


def matrices(member: Member, size: Size, precision: Precision) -> Iterator[tuple[Array, Array, int]]:
    """Weight (inputs, outputs), bias (outputs,) and type of every product, in the order of the step."""
    conv, convolution = member.conv, precision.convolution
    yield columns(conv.weight), conv.bias.numpy(), convolution
    if size.mix[0]:
        for weight, bias in zip(
            conv.mix_weight.split(size.mix[0]), conv.mix_bias.split(size.mix[0]), strict=True
        ):
            yield columns(weight), bias.numpy(), convolution
    affine = [part for cell in member.cells for part in (cell.of_input, cell.of_hidden)]
    for part in (*affine, member.attend, member.energy):
        assert isinstance(part, Affine)
        yield part.weight.numpy(), part.bias.numpy(), precision.matrices
    yield member.votes.weight[:, 1:].numpy(), member.votes.bias[1:].numpy(), precision.matrices


def columns(kernels: torch.Tensor) -> Array:
    """Kernels (outputs, 1, frames, bands) → (frames · bands, outputs)."""
    return kernels.flatten(1).T.numpy()


def float_matrix(weight: Array, bias: Array) -> list[bytes]:
    """Weight and bias, with outputs of zero up to a multiple of GROUP."""
    padding = -len(bias) % GROUP
    rows = np.concatenate([weight, bias[None]])
    return [np.pad(rows, ((0, 0), (0, padding))).astype("<f4").tobytes()]


def int8_matrix(weight: Array, bias: Array) -> list[bytes]:
    """Rounded weights, outputs × inputs with inputs of zero up to a multiple of GROUP; a scale for each output; bias."""
    if len(weight) > MOST_INPUTS:
        raise BinaryError(f"{len(weight)} inputs of a product are more than the {MOST_INPUTS} that int8 sums can hold")
    scale = np.maximum(np.abs(weight).max(axis=0) / 127, np.float32(1e-30))
    rounded = np.clip(np.round(weight / scale), -127, 127).astype(np.int8).T
    rows = np.pad(rounded, ((0, 0), (0, -len(weight) % GROUP)))
    return [rows.tobytes(), scale.astype("<f4").tobytes(), bias.astype("<f4").tobytes()]
