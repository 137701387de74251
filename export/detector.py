"""A trained model with its operating point: the input of an export."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.int8 import recorded
from export.int8.recorded import Ranges, Recorded
from export.step.step import state_shapes
from training.model import checkpoint
from training.model.crnn import CRNN
from training.model.features import SAMPLE_RATE


@dataclass(frozen=True)
class Detector:
    name: str  # of the bundle: happy-base
    model: CRNN  # in eval mode
    keywords: list[str]
    thresholds: list[float]  # one for each keyword
    refractory_hops: int
    trained_ranges: Ranges = field(default_factory=dict)  # of a quantization-aware training
    operating_points: list[list[dict[str, float]]] = field(default_factory=list)  # for each keyword; [] unmeasured
    recorded: Recorded | None = None  # by export.int8.measure, on recordings
    sample_rate: int = SAMPLE_RATE

    @property
    def hop_samples(self) -> int:
        return self.model.size.hop_samples

    def zeros(self) -> list[NDArray[np.float32]]:
        """The states at the start of a stream."""
        return [np.zeros(shape, np.float32) for shape in state_shapes(self.model.size).values()]


def read_checkpoint(path: Path, measured: bool = True) -> Detector:
    """path: a checkpoint's folder or weights; measured: with its int8.json. Raises CheckpointError."""
    weights = path / "model.safetensors" if path.is_dir() else path
    model, info = checkpoint.load(weights)
    counts = len(info.keywords), len(info.thresholds), model.size.keywords
    if len(set(counts)) > 1:
        raise checkpoint.CheckpointError(
            f"{path}: {counts[0]} keywords, {counts[1]} thresholds and {counts[2]} outputs do not fit; train it again"
        )
    if info.curves and len(info.curves) != len(info.keywords):
        raise checkpoint.CheckpointError(f"{path}: {counts[0]} keywords, {len(info.curves)} curves; train it again")
    return Detector(
        info.name,
        model,
        info.keywords,
        info.thresholds,
        info.refractory_hops,
        info.ranges,
        info.curves if any(info.curves) else [],
        recorded.read(weights) if measured else None,
    )
