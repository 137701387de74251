"""What an export is handed: a trained model and how it is to be used."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.step import state_shapes
from training.crnn import CRNN
from training.features import SAMPLE_RATE

Ranges = dict[str, tuple[float, float]]  # name of an activation → lowest and highest value


@dataclass(frozen=True)
class Detector:
    name: str  # of the bundle: happy-base
    model: CRNN  # in eval mode
    keywords: list[str]
    thresholds: list[float]  # one for each keyword
    refractory_hops: int
    trained_ranges: Ranges = field(default_factory=dict)  # of a quantization-aware training
    recorded: dict[str, Any] = field(default_factory=dict)  # what export.measure found on recordings
    sample_rate: int = SAMPLE_RATE

    @property
    def hop_samples(self) -> int:
        return self.model.size.hop_samples

    def zeros(self) -> list[NDArray[np.float32]]:
        """The states of a stream that has heard nothing."""
        return [np.zeros(shape, np.float32) for shape in state_shapes(self.model.size).values()]
