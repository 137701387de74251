"""int8.json, beside a checkpoint's weights: ranges of its activations and figures of its int8 candidates.

`export.int8.measure` writes it, from recordings. An export reads it, because it has none.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from training.model.checkpoint import CheckpointError, write_atomically

FILE = "int8.json"
Ranges = dict[str, tuple[float, float]]  # name of an activation → lowest and highest value


class Trial(NamedTuple):
    """One int8 candidate, measured. A difference is of scores, from those of the trained model or the float file."""

    bytes: int
    left_float: list[str]  # nodes of the network proper with weights
    largest: float  # difference on the verification audio
    mean: float
    more_misses: float  # than in float, as a share of the keyword's validation clips
    mean_difference: float  # on the validation clips
    p99_difference: float


@dataclass(frozen=True)
class Recorded:
    calibrated_on: str
    ranges: Ranges
    measured_on: str = ""  # empty: no candidate was judged
    chosen: str = ""
    trials: dict[str, Trial] = field(default_factory=dict)


def read(weights: Path) -> Recorded | None:
    """weights: model.safetensors. None without a file. Raises CheckpointError, also when it is of other weights."""
    file = weights.with_name(FILE)
    if not file.exists():
        return None
    fix = f"run python -m export.int8.measure {weights.parent}, or remove the file"
    try:
        content = json.loads(file.read_text())
        sha256 = content.pop("sha256")
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in content.pop("ranges").items()}
        trials = {str(name): Trial(**trial) for name, trial in content.pop("trials").items()}
        recorded = Recorded(ranges=ranges, trials=trials, **content)
        if recorded.chosen and recorded.chosen not in trials:
            raise ValueError(f"{recorded.chosen} was not tried")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({type(error).__name__}); {fix}") from None
    if sha256 != digest(weights):
        raise CheckpointError(f"{file}: is of other weights; {fix}")
    return recorded


def write(weights: Path, recorded: Recorded) -> None:
    """weights: model.safetensors. Raises OSError."""
    trials = {name: trial._asdict() for name, trial in recorded.trials.items()}
    content = {"sha256": digest(weights), **asdict(recorded), "trials": trials}
    write_atomically(weights.with_name(FILE), (json.dumps(content, indent=1) + "\n").encode())


def digest(weights: Path) -> str:
    return hashlib.sha256(weights.read_bytes()).hexdigest()
